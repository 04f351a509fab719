import { toHalfBits } from "@x/kernels";

const VALUES = 32;
const BYTES = 34;

/** Blocks of Q8_0: of 32 numbers d = max |x| / 127 as a half, and 32 signed bytes round(x / d). */
export function quantiseQ8(data: Float32Array): Uint8Array {
  const out = new Uint8Array((data.length / VALUES) * BYTES);
  const view = new DataView(out.buffer);
  for (let i = 0, at = 0; i < data.length; i += VALUES, at += BYTES) {
    let most = 0;
    for (let j = 0; j < VALUES; j++) most = Math.max(most, Math.abs(data[i + j]!));
    const d = most / 127;
    view.setUint16(at, toHalfBits(d), true);
    if (d > 0) for (let j = 0; j < VALUES; j++) view.setInt8(at + 2 + j, Math.round(data[i + j]! / d));
  }
  return out;
}
