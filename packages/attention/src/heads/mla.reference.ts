import {
  attentionReference,
  linearReference,
  rmsNormReference,
  ropeReference,
  type Numbers,
} from "../engine/attention.reference.js";
import type { MlaConfig } from "./mla.js";

/** MLA in its expanded form, weights in the order of the plan without query compression. */
export function mlaReference(
  c: MlaConfig,
  batch: number,
  seq: number,
): (x: Numbers, wq: Numbers, wkvA: Numbers, kvNorm: Numbers, wkvB: Numbers, wo: Numbers) => Float64Array {
  const { dim, numHeads: H, nopeDim, ropeDim, vDim, kvRank, ropeBase: base = 10000, normEps = 1e-6 } = c;
  const D = nopeDim + ropeDim;
  return (x, wq, wkvA, kvNorm, wkvB, wo) => {
    const rows = batch * seq;
    const pick = (y: Numbers, width: number, from: number, to: number): Float64Array =>
      Float64Array.from(
        { length: (y.length / width) * (to - from) },
        (_, n) => y[Math.floor(n / (to - from)) * width + from + (n % (to - from))]!,
      );
    const all = linearReference(x, wq, dim);
    const qR = ropeReference(pick(all, D, nopeDim, D), { seq, heads: H, dim: ropeDim, base });
    const a = linearReference(x, wkvA, dim);
    const latent = rmsNormReference(pick(a, kvRank + ropeDim, 0, kvRank), kvNorm, normEps);
    const kR = ropeReference(pick(a, kvRank + ropeDim, kvRank, kvRank + ropeDim), {
      seq,
      heads: 1,
      dim: ropeDim,
      base,
    });
    const kv = linearReference(latent, wkvB, kvRank);
    const q = new Float64Array(rows * H * D);
    const k = new Float64Array(rows * H * D);
    for (let r = 0; r < rows; r++)
      for (let h = 0; h < H; h++)
        for (let d = 0; d < D; d++) {
          const at = (r * H + h) * D + d;
          q[at] = d < nopeDim ? all[at]! : qR[(r * H + h) * ropeDim + d - nopeDim]!;
          k[at] = d < nopeDim ? kv[(r * H + h) * (nopeDim + vDim) + d]! : kR[r * ropeDim + d - nopeDim]!;
        }
    const v = pick(kv, nopeDim + vDim, nopeDim, nopeDim + vDim);
    const o = attentionReference(q, k, v, {
      batch,
      heads: H,
      kvHeads: H,
      queries: seq,
      keys: seq,
      dim: D,
      valueDim: vDim,
      scale: c.scale ?? D ** -0.5,
      seen: (_b, _h, i, j) => j <= i,
    });
    return linearReference(o, wo, H * vDim);
  };
}
