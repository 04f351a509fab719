import type { WrittenValue } from "./architectures/index.js";
import { ggufBytes } from "./write_gguf.js";

/** A tensor whose bytes are there. */
export interface TestTensor {
  readonly name: string;
  readonly type: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

/** The bytes of a GGUF file. */
export async function ggufOf(
  metadata: Readonly<Record<string, WrittenValue>>,
  tensors: readonly TestTensor[],
): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  const written = tensors.map(({ data, ...tensor }) => ({ ...tensor, bytes: () => [data] }));
  for await (const piece of ggufBytes(metadata, written)) pieces.push(piece.slice());
  return Buffer.concat(pieces);
}

/** The bytes of float32 numbers. */
export const f32Bytes = (...numbers: readonly number[]): Uint8Array =>
  new Uint8Array(Float32Array.from(numbers).buffer);
