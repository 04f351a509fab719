/** A tensor to be written; its bytes are asked for when it is its turn. */
export interface PendingTensor {
  readonly dtype: "F32" | "F16" | "BF16" | "U8";
  readonly shape: readonly number[];
  readonly bytes: () => Promise<Uint8Array>;
}

const WIDTHS = { F32: 4, F16: 2, BF16: 2, U8: 1 } as const;
const ALIGNMENT = 8;

/**
 * The bytes of a safetensors file, piece by piece, so that no more than one tensor is in memory: wider elements first, so
 * that all of them are aligned.
 */
export async function* safetensorsBytes(
  tensors: ReadonlyMap<string, PendingTensor>,
): AsyncGenerator<Uint8Array> {
  const sorted = [...tensors].sort(([, a], [, b]) => WIDTHS[b.dtype] - WIDTHS[a.dtype]);
  let at = 0;
  const entries = sorted.map(([name, { dtype, shape }]) => {
    const begin = at;
    at += shape.reduce((n, size) => n * size, WIDTHS[dtype]);
    return [name, { dtype, shape, data_offsets: [begin, at] }] as const;
  });
  const json = JSON.stringify({ __metadata__: { format: "pt" }, ...Object.fromEntries(entries) });
  const bytes = new TextEncoder().encode(json);
  const padded = Math.ceil(bytes.length / ALIGNMENT) * ALIGNMENT;
  const header = new Uint8Array(8 + padded).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true);
  header.set(bytes, 8);
  yield header;
  for (const [, tensor] of sorted) yield await tensor.bytes();
}
