import { linearReference, type Numbers } from "../../engine/attention.reference.js";
import { decayedReference } from "../decay/naive.reference.js";

export interface RetentionLayerShape {
  readonly batch: number;
  readonly tokens: number;
  readonly dim: number;
  readonly heads: number;
  readonly valueDim: number;
  readonly frequencies: readonly number[];
  readonly offset: number;
  readonly layerNorm: boolean;
  readonly eps: number;
  readonly gate: (g: number) => number;
  /** Log decays from x [batch, tokens, dim]. */
  readonly decay: (x: Numbers) => (b: number, h: number, t: number) => number;
  /** Factor of row t of head h. */
  readonly row?: (h: number, t: number) => number;
}

/** A retention layer: weights by name, each [out, in]; the output, then the state. */
export function retentionLayerReference(
  x: Numbers,
  w: Readonly<Record<"q" | "k" | "v" | "g" | "o", Numbers>>,
  state: Numbers,
  s: RetentionLayerShape,
): Float64Array {
  const { batch, tokens, heads } = s;
  const [dim, valueDim] = [s.dim / heads, s.valueDim / heads];
  /** [batch, tokens, heads, width] and [batch, heads, tokens, width]. */
  const turned = (y: Numbers, outer: number, inner: number, width: number): Float64Array =>
    Float64Array.from({ length: y.length }, (_, i) => {
      const [d, a, b, n] = [
        i % width,
        Math.floor(i / width) % outer,
        Math.floor(i / width / outer) % inner,
        Math.floor(i / width / outer / inner),
      ];
      return y[((n * outer + a) * inner + b) * width + d]!;
    });
  const rotated = (y: Numbers): Float64Array =>
    Float64Array.from({ length: y.length }, (_, i) => {
      const d = i % dim;
      const angle = (s.offset + (Math.floor(i / s.dim) % tokens)) * s.frequencies[d >> 1]!;
      return d % 2 === 0
        ? y[i]! * Math.cos(angle) - y[i + 1]! * Math.sin(angle)
        : y[i]! * Math.cos(angle) + y[i - 1]! * Math.sin(angle);
    });
  const byHead = (y: Numbers, width: number): Float64Array => turned(y, tokens, heads, width);
  const r = decayedReference(
    byHead(rotated(linearReference(x, w.q, s.dim)), dim),
    byHead(rotated(linearReference(x, w.k, s.dim)), dim),
    byHead(linearReference(x, w.v, s.dim), valueDim),
    s.decay(x),
    state,
    { batch, heads, tokens, dim, valueDim, scale: dim ** -0.5 },
  );
  const o = turned(
    r.out.map(
      (y, i) =>
        y * (s.row?.(Math.floor(i / valueDim / tokens) % heads, Math.floor(i / valueDim) % tokens) ?? 1),
    ),
    heads,
    tokens,
    valueDim,
  );
  const gates = linearReference(x, w.g, s.dim);
  const gated = o.map((_, i) => {
    const row = o.subarray(i - (i % valueDim), i - (i % valueDim) + valueDim);
    const mean = s.layerNorm ? row.reduce((a, b) => a + b, 0) / valueDim : 0;
    const square = row.reduce((a, b) => a + (b - mean) ** 2, 0) / valueDim;
    return ((o[i]! - mean) / Math.sqrt(square + s.eps)) * s.gate(gates[i]!);
  });
  return Float64Array.from([...linearReference(gated, w.o, s.valueDim), ...r.state]);
}
