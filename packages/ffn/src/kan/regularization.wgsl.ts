import { flatMain, defineKernel } from "@x/kernels";

/*
 * The magnitude of the edges of a KAN layer and its gradients.
 *
 * What an invocation owns: one edge (o, i) over a chunk of tokens, and in the gradient of the inputs one
 * feature of one token. Grids: chunks * outputs * features, and tokens * features invocations, in workgroups
 * of 64 folded into two axes.
 *
 * Bindings, f32: phi, dphi [tokens, features, n]; w [outputs, features, n]; a, da [tokens, features] and
 * w_base [outputs, features], only with a base branch; grad [outputs, features]; out
 * [chunks, outputs, features]; dw [chunks, outputs, features, n]; dw_base [chunks, outputs, features].
 */

export interface EdgeVariant {
  /** There is a base branch: `a` [tokens, in] and `w_base` [out, in]. */
  readonly base: boolean;
}

const params = {
  tokens: "u32",
  features: "u32",
  outputs: "u32",
  n: "u32",
  chunk: "u32",
  chunks: "u32",
  share: "f32",
} as const;

const operands = (v: EdgeVariant): Record<string, `read ${string}`> => ({
  phi: "read f32",
  w: "read f32",
  ...(v.base ? { a: "read f32", w_base: "read f32" } : {}),
});

/** The function of an edge at one token. */
const edgeValue = (v: EdgeVariant): string => /* wgsl */ `
fn edge_value(t: u32, edge: u32) -> f32 {
  let i = edge % params.features;
  let base = (t * params.features + i) * params.n;
  var total = ${v.base ? "w_base[edge] * a[t * params.features + i]" : "0.0"};
  for (var g = 0u; g < params.n; g++) { total += w[edge * params.n + g] * phi[base + g]; }
  return total;
}
${flatMain("at")}`;

const edgeOfChunk = /* wgsl */ `
  let count = params.outputs * params.features;
  if (at >= count * params.chunks) { return; }
  let edge = at % count;
  let first = at / count * params.chunk;
  let end = min(first + params.chunk, params.tokens);`;

/** share times the sum of |phi_{o,i}(x_i)| over a chunk of the tokens. One invocation: one edge of one chunk. */
export const edgeMagnitude = defineKernel({
  name: "kanEdgeMagnitude",
  bindings: (v: EdgeVariant) => ({ ...operands(v), out: "write f32" }),
  params,
  wgsl: (v) => /* wgsl */ `${edgeValue(v)}${edgeOfChunk}
  var total = 0.0;
  for (var t = first; t < end; t++) { total += abs(edge_value(t, edge)); }
  out[at] = params.share * total;
}`,
});

/** Gradients of the bases and the base branch. One invocation: one feature of one token, over all outputs. */
export const edgeMagnitudeBackwardInput = defineKernel({
  name: "kanEdgeMagnitudeBackwardInput",
  bindings: (v: EdgeVariant) => ({
    ...operands(v),
    grad: "read f32",
    dphi: "read_write f32",
    ...(v.base ? { da: "write f32" } : {}),
  }),
  params,
  wgsl: (v) => /* wgsl */ `${edgeValue(v)}
  if (at >= params.tokens * params.features) { return; }
  for (var g = 0u; g < params.n; g++) { dphi[at * params.n + g] = 0.0; }
  var total = 0.0;
  for (var o = 0u; o < params.outputs; o++) {
    let edge = o * params.features + at % params.features;
    let d = params.share * grad[edge] * sign(edge_value(at / params.features, edge));
    ${v.base ? "total += d * w_base[edge];" : ""}
    for (var g = 0u; g < params.n; g++) { dphi[at * params.n + g] += d * w[edge * params.n + g]; }
  }
  ${v.base ? "da[at] = total;" : ""}
}`,
});

/** Gradients of the weights. One invocation: one edge of one chunk of the tokens. */
export const edgeMagnitudeBackwardWeights = defineKernel({
  name: "kanEdgeMagnitudeBackwardWeights",
  bindings: (v: EdgeVariant) => ({
    ...operands(v),
    grad: "read f32",
    dw: "read_write f32",
    ...(v.base ? { dw_base: "write f32" } : {}),
  }),
  params,
  wgsl: (v) => /* wgsl */ `${edgeValue(v)}${edgeOfChunk}
  let i = edge % params.features;
  for (var g = 0u; g < params.n; g++) { dw[at * params.n + g] = 0.0; }
  var total = 0.0;
  for (var t = first; t < end; t++) {
    let d = params.share * grad[edge] * sign(edge_value(t, edge));
    ${v.base ? "total += d * a[t * params.features + i];" : ""}
    for (var g = 0u; g < params.n; g++) { dw[at * params.n + g] += d * phi[(t * params.features + i) * params.n + g]; }
  }
  ${v.base ? "dw_base[at] = total;" : ""}
}`,
});
