import { linearReference, type Numbers } from "../../engine/attention.reference.js";

export interface Rwkv6Shape {
  readonly batch: number;
  readonly heads: number;
  readonly tokens: number;
  readonly dim: number;
}

/** Token after token; r, k, v, w [batch, heads, tokens, dim], u [heads, dim]; the output and the last state. */
export function rwkv6Reference(
  r: Numbers,
  k: Numbers,
  v: Numbers,
  w: Numbers,
  u: Numbers,
  state: Numbers | undefined,
  { batch, heads, tokens, dim }: Rwkv6Shape,
): { out: Float64Array; state: Float64Array } {
  const out = new Float64Array(r.length);
  const s = Float64Array.from(state ?? new Float64Array(batch * heads * dim * dim));
  for (let bh = 0; bh < batch * heads; bh++)
    for (let t = 0; t < tokens; t++) {
      const at = (bh * tokens + t) * dim;
      for (let d = 0; d < dim; d++) {
        const decay = Math.exp(-Math.exp(w[at + d]!));
        const bonus = u[(bh % heads) * dim + d]!;
        for (let e = 0; e < dim; e++) {
          const place = (bh * dim + d) * dim + e;
          const entering = k[at + d]! * v[at + e]!;
          out[at + e]! += r[at + d]! * (s[place]! + bonus * entering);
          s[place] = decay * s[place]! + entering;
        }
      }
    }
  return { out, state: s };
}

/** The layer; weights by the plan's names: the output, the state, the last token. */
export function rwkv6TimeMixReference(
  x: Numbers,
  state: Numbers,
  prev: Numbers,
  p: Readonly<Record<string, Numbers>>,
  {
    batch,
    tokens,
    dim,
    numHeads,
    eps,
    rank,
  }: Record<"batch" | "tokens" | "dim" | "numHeads" | "eps" | "rank", number>,
): Float64Array {
  const rows = batch * tokens;
  const headDim = dim / numHeads;
  const xx = Float64Array.from({ length: x.length }, (_, i) => {
    const [d, t, b] = [i % dim, Math.floor(i / dim) % tokens, Math.floor(i / dim / tokens)];
    return (t === 0 ? prev[b * dim + d]! : x[i - dim]!) - x[i]!;
  });
  const mix = (of: (i: number) => number): Float64Array => xx.map((y, i) => x[i]! + y * of(i));
  /** a [rows, n] times w [n, m]. */
  const times = (a: Numbers, w: Numbers, n: number): Float64Array => {
    const m = w.length / n;
    return Float64Array.from({ length: (a.length / n) * m }, (_, i) => {
      let sum = 0;
      for (let j = 0; j < n; j++) sum += a[Math.floor(i / m) * n + j]! * w[j * m + (i % m)]!;
      return sum;
    });
  };
  const low = times(
    mix((i) => p["time_maa_x"]![i % dim]!),
    p["time_maa_w1"]!,
    dim,
  ).map(Math.tanh);
  const [xw, xk, xv, xr, xg] = ["w", "k", "v", "r", "g"].map((name, j) => {
    const own = Float64Array.from(
      { length: rows * rank },
      (_, i) => low[Math.floor(i / rank) * 5 * rank + j * rank + (i % rank)]!,
    );
    const more = times(own, Array.from(p["time_maa_w2"]!).slice(j * rank * dim, (j + 1) * rank * dim), rank);
    return mix((i) => p[`time_maa_${name}`]![i % dim]! + more[i]!);
  }) as [Float64Array, Float64Array, Float64Array, Float64Array, Float64Array];
  const decayRank = p["time_decay_w1"]!.length / dim;
  const w = times(times(xw, p["time_decay_w1"]!, dim).map(Math.tanh), p["time_decay_w2"]!, decayRank).map(
    (y, i) => y + p["time_decay"]![i % dim]!,
  );
  /** [batch, tokens, heads, headDim] to [batch, heads, tokens, headDim], or back. */
  const turned = (y: Numbers, outer: number, inner: number): Float64Array =>
    Float64Array.from({ length: y.length }, (_, i) => {
      const [d, a] = [i % headDim, Math.floor(i / headDim) % outer];
      const [b, n] = [Math.floor(i / headDim / outer) % inner, Math.floor(i / headDim / outer / inner)];
      return y[((n * outer + a) * inner + b) * headDim + d]!;
    });
  const byHead = (y: Numbers): Float64Array => turned(y, tokens, numHeads);
  const project = (y: Numbers, name: string): Float64Array => linearReference(y, p[`${name}.weight`]!, dim);
  const core = rwkv6Reference(
    byHead(project(xr, "receptance")),
    byHead(project(xk, "key")),
    byHead(project(xv, "value")),
    byHead(w),
    p["time_faaaa"]!,
    state,
    { batch, heads: numHeads, tokens, dim: headDim },
  );
  const o = turned(core.out, numHeads, tokens);
  const g = project(xg, "gate").map((y) => y / (1 + Math.exp(-y)));
  const y = o.map((value, i) => {
    const row = o.subarray(i - (i % headDim), i - (i % headDim) + headDim);
    const mean = row.reduce((a, b) => a + b, 0) / headDim;
    const variance = row.reduce((a, b) => a + (b - mean) ** 2, 0) / headDim;
    return (
      (((value - mean) / Math.sqrt(variance + eps)) * p["ln_x.weight"]![i % dim]! +
        p["ln_x.bias"]![i % dim]!) *
      g[i]!
    );
  });
  const last = Float64Array.from(
    { length: batch * dim },
    (_, i) => x[(Math.floor(i / dim) * tokens + tokens - 1) * dim + (i % dim)]!,
  );
  return Float64Array.from([...project(y, "output"), ...core.state, ...last]);
}
