import { attentionReference, linearReference, type Numbers } from "../engine/attention.reference.js";
import type { TransformerXlAttentionConfig } from "./transformer_xl.js";

/** Transformer-XL's attention over [memory; x], weights in the order of the plan. */
export function transformerXlReference(
  c: TransformerXlAttentionConfig,
  p: { batch: number; seq: number; memory: number },
): (x: Numbers, memory: Numbers, ...weights: Numbers[]) => Float64Array {
  const { dim, numHeads: H, headDim: d = dim / H, clampLen = 0 } = c;
  const keys = p.memory + p.seq;
  return (x, memory, ...weights) => {
    const [wq, wk, wv, wr, wo, u, v] = weights as [
      Numbers,
      Numbers,
      Numbers,
      Numbers,
      Numbers,
      Numbers,
      Numbers,
    ];
    const context = Float64Array.from({ length: p.batch * keys * dim }, (_, n) => {
      const [b, row, i] = [Math.floor(n / (keys * dim)), Math.floor(n / dim) % keys, n % dim];
      return row < p.memory
        ? memory[(b * p.memory + row) * dim + i]!
        : x[(b * p.seq + row - p.memory) * dim + i]!;
    });
    const q = linearReference(x, wq, dim);
    const at = (t: number): Float64Array => {
      const time = clampLen > 0 ? Math.min(t, clampLen) : t;
      const R = Float64Array.from({ length: dim }, (_, i) => {
        const angle = time * 10000 ** ((-2 * (i % (dim / 2))) / dim);
        return i < dim / 2 ? Math.sin(angle) : Math.cos(angle);
      });
      return linearReference(R, wr, dim);
    };
    const relative = Array.from({ length: keys }, (_, t) => at(t));
    const shifted = Float64Array.from(q, (value, n) => value + u[n % (H * d)]!);
    const o = attentionReference(
      shifted,
      linearReference(context, wk, dim),
      linearReference(context, wv, dim),
      {
        batch: p.batch,
        heads: H,
        kvHeads: H,
        queries: p.seq,
        keys,
        dim: d,
        valueDim: d,
        scale: d ** -0.5,
        seen: (_b, _h, i, j) => j <= i + p.memory,
        term: (b, h, i, j) => {
          const R = relative[i + p.memory - j]!;
          let dot = 0;
          for (let e = 0; e < d; e++)
            dot += (q[((b * p.seq + i) * H + h) * d + e]! + v[h * d + e]!) * R[h * d + e]!;
          return dot * d ** -0.5;
        },
      },
    );
    return linearReference(o, wo, H * d);
  };
}
