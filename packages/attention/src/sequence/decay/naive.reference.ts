import type { Numbers } from "../../engine/attention.reference.js";

export interface DecayedShape {
  readonly batch: number;
  readonly heads: number;
  /** Heads of q and k; default heads. */
  readonly groups?: number;
  readonly tokens: number;
  readonly dim: number;
  readonly valueDim: number;
  readonly scale: number;
}

/**
 * Token after token: S_t = exp(decay_t) S_{t-1} + scale k_t^T v_t, out_t = q_t S_t. q, k [batch, groups, tokens, dim],
 * v [batch, heads, tokens, valueDim], decay(b, h, t), state [batch, heads, dim, valueDim]; the output, then the last state.
 */
export function decayedReference(
  q: Numbers,
  k: Numbers,
  v: Numbers,
  decay: (b: number, h: number, t: number) => number,
  state: Numbers | undefined,
  { batch, heads, groups = heads, tokens, dim, valueDim, scale }: DecayedShape,
): { out: Float64Array; state: Float64Array } {
  const out = new Float64Array(batch * heads * tokens * valueDim);
  const next = Float64Array.from(state ?? new Float64Array(batch * heads * dim * valueDim));
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < heads; h++) {
      const s0 = (b * heads + h) * dim * valueDim;
      const g = b * groups + Math.floor((h * groups) / heads);
      for (let t = 0; t < tokens; t++) {
        const gain = Math.exp(decay(b, h, t));
        const v0 = ((b * heads + h) * tokens + t) * valueDim;
        const q0 = (g * tokens + t) * dim;
        for (let d = 0; d < dim; d++)
          for (let e = 0; e < valueDim; e++) {
            const at = s0 + d * valueDim + e;
            next[at] = gain * next[at]! + scale * k[q0 + d]! * v[v0 + e]!;
            out[v0 + e]! += q[q0 + d]! * next[at];
          }
      }
    }
  return { out, state: next };
}
