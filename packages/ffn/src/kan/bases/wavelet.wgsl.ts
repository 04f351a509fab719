import { flatMain, defineKernel } from "@x/kernels";
import { SIN_COS } from "./sincos.wgsl.js";

/*
 * Wavelets of a KAN layer: out[t, o] = sum_i weight[o, i] psi((x[t, i] - translation[o, i]) / scale[o, i]).
 *
 * What an invocation owns: in the forward one output feature of TOKENS tokens, in the input's gradient one
 * input feature of TOKENS tokens, in the edges' gradients one edge (o, i) over a chunk of tokens. Grids:
 * ceil(tokens / TOKENS) * outputs, ceil(tokens / TOKENS) * features, and chunks * outputs * features
 * invocations, in workgroups of 64 folded into two axes.
 *
 * Bindings, f32: x, dx [tokens, features]; scale, translation, weight [outputs, features]; out, grad
 * [tokens, outputs]; dscale, dtranslation, dweight [chunks, outputs, features].
 */

/** Mother wavelets. */
export type WaveletKind = "mexicanHat" | "morlet" | "dog";

interface WaveletVariant {
  readonly wavelet: WaveletKind;
}

const amplitude = String(2 / (Math.sqrt(3) * Math.PI ** 0.25));

/** psi and its slope, as (psi, psi'), times e^(-s^2/2). */
const MOTHERS: Readonly<Record<WaveletKind, string>> = {
  mexicanHat: `${amplitude} * vec2f(s * s - 1.0, s * (3.0 - s * s))`,
  morlet: "vec2f(z.y, -params.omega0 * z.x - s * z.y)",
  dog: "vec2f(-s, s * s - 1.0)",
};

/**
 * The argument of an edge's wavelet, and 1 / scale. A scale of 0 (below 1.2e-38, which many adapters take for 0) has
 * the limit of ever narrower wavelets: 0 almost everywhere, as far out, and no slope.
 */
const EDGE = /* wgsl */ `
fn inverse(scale: f32) -> f32 {
  let flat = abs(scale) < 1.2e-38;
  return select(1.0 / select(scale, 1.0, flat), 0.0, flat);
}
fn argument(offset: f32, scale: f32) -> f32 {
  let flat = abs(scale) < 1.2e-38;
  return select(offset / select(scale, 1.0, flat), 100.0, flat);
}`;

/** Far out s is clamped: the square must not overflow where e^(-s^2/2) is 0 already. */
const wave = ({ wavelet }: WaveletVariant): string => /* wgsl */ `${EDGE}
${wavelet === "morlet" ? SIN_COS : ""}
fn wave(argument: f32) -> vec2f {
  let s = clamp(argument, -100.0, 100.0);
  ${wavelet === "morlet" ? "let z = sin_cos(params.omega0 * s);" : ""}
  return exp(-0.5 * s * s) * ${MOTHERS[wavelet]};
}`;

const params = {
  tokens: "u32",
  features: "u32",
  outputs: "u32",
  chunk: "u32",
  chunks: "u32",
  omega0: "f32",
} as const;
const edges = { x: "read f32", scale: "read f32", translation: "read f32", weight: "read f32" } as const;

/** Tokens of one invocation of the forward and of the input's gradient. */
export const TOKENS = 4;

const head = flatMain("at");

/** One invocation: one output feature of four tokens, over all input features. */
export const waveletForward = defineKernel({
  name: "kanWavelet",
  bindings: { ...edges, out: "write f32" },
  params,
  wgsl: (v: WaveletVariant) => /* wgsl */ `${wave(v)}${head}
  let o = at % params.outputs;
  let first = at / params.outputs * ${String(TOKENS)}u;
  if (first >= params.tokens) { return; }
  let last = params.tokens - 1u;
  var total = vec4f();
  for (var i = 0u; i < params.features; i++) {
    let edge = o * params.features + i;
    for (var j = 0u; j < ${String(TOKENS)}u; j++) {
      let value = x[min(first + j, last) * params.features + i];
      total[j] += weight[edge] * wave(argument(value - translation[edge], scale[edge])).x;
    }
  }
  for (var j = first; j < min(first + ${String(TOKENS)}u, params.tokens); j++) {
    out[j * params.outputs + o] = total[j - first];
  }
}`,
});

/** One invocation: one input feature of four tokens, over all output features. */
export const waveletBackwardInput = defineKernel({
  name: "kanWaveletBackwardInput",
  bindings: { ...edges, grad: "read f32", dx: "write f32" },
  params,
  wgsl: (v: WaveletVariant) => /* wgsl */ `${wave(v)}${head}
  let i = at % params.features;
  let first = at / params.features * ${String(TOKENS)}u;
  if (first >= params.tokens) { return; }
  let last = params.tokens - 1u;
  var total = vec4f();
  for (var o = 0u; o < params.outputs; o++) {
    let edge = o * params.features + i;
    let factor = weight[edge] * inverse(scale[edge]);
    for (var j = 0u; j < ${String(TOKENS)}u; j++) {
      let token = min(first + j, last);
      let s = argument(x[token * params.features + i] - translation[edge], scale[edge]);
      total[j] += grad[token * params.outputs + o] * factor * wave(s).y;
    }
  }
  for (var j = first; j < min(first + ${String(TOKENS)}u, params.tokens); j++) {
    dx[j * params.features + i] = total[j - first];
  }
}`,
});

/** One invocation: one edge, over the tokens of a chunk; the chunks are summed afterwards. */
export const waveletBackwardEdges = defineKernel({
  name: "kanWaveletBackwardEdges",
  bindings: {
    ...edges,
    grad: "read f32",
    dscale: "write f32",
    dtranslation: "write f32",
    dweight: "write f32",
  },
  params,
  wgsl: (v: WaveletVariant) => /* wgsl */ `${wave(v)}${head}
  let count = params.outputs * params.features;
  if (at >= count * params.chunks) { return; }
  let edge = at % count;
  let chunk = at / count;
  let o = edge / params.features;
  let i = edge % params.features;
  var total = vec3f();
  for (var t = chunk * params.chunk; t < min((chunk + 1u) * params.chunk, params.tokens); t++) {
    let s = argument(x[t * params.features + i] - translation[edge], scale[edge]);
    let w = wave(s);
    total += grad[t * params.outputs + o] * vec3f(w.x, w.y, clamp(s, -100.0, 100.0) * w.y);
  }
  let factor = -weight[edge] * inverse(scale[edge]);
  dweight[at] = total.x;
  dtranslation[at] = factor * total.y;
  dscale[at] = factor * total.z;
}`,
});
