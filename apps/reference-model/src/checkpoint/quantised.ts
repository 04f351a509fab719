import { ConfigError, DTypeError, quantize } from "@x/kernels";

/** What matrices are quantised to: 8.5 or 4.5 bits a number. */
export const QUANTS = { q8: "Q8_0", q4: "Q4_0" } as const;
export type Quants = keyof typeof QUANTS;

/** Numbers in a block of either type. */
export const BLOCK = 32;

/** The blocks of a tensor's numbers. @throws ConfigError for numbers that a block cannot hold */
export function quantised(name: string, data: Float32Array, type: "Q8_0" | "Q4_0"): Uint8Array {
  try {
    return quantize(data, type === "Q8_0" ? "q8_0" : "q4_0");
  } catch (cause) {
    if (!DTypeError.isInstance(cause)) throw cause;
    throw new ConfigError(name, `cannot be quantised: ${cause.message}`, { cause });
  }
}
