import { activationExpr, defineKernel, exprFunction, type Expr, type Tensor } from "@x/kernels";
import { activationName, unitOf, type Experts } from "./expert_weights.js";

/** Choices up to which each is multiplied by itself: no sorting, and only its expert's weights are read. */
export const FEW_CHOICES = 32;

interface FewVariant {
  /** Elements are read by vec4. */
  readonly vec: boolean;
  readonly weights: string;
  /** The activation of "x", or the gated unit of "x" and "up". */
  readonly unit?: Expr;
  readonly gated: boolean;
  readonly bias: string | undefined;
  readonly upBias?: string | undefined;
}

/** A workgroup makes this many outputs, eight threads each. */
const OUTPUTS = 8;

const element = (v: FewVariant, dtype: string): string => (v.vec ? `vec4<${dtype}>` : dtype);

const head = (v: FewVariant): string => /* wgsl */ `
alias T = ${v.vec ? "vec4f" : "f32"};
fn fold(x: T) -> f32 { return ${v.vec ? "(x.x + x.y) + (x.z + x.w)" : "x"}; }
var<workgroup> partial: array<f32, 64>;
/** Sum over the eight threads of an output, in a fixed order. */
fn total(x: f32, thread: u32) -> f32 {
  workgroupBarrier();
  partial[thread] = x;
  workgroupBarrier();
  var sum = 0.0;
  for (var i = thread / 8u * 8u; i < thread / 8u * 8u + 8u; i++) { sum += partial[i]; }
  return sum;
}`;

/**
 * hidden[c, f] of choice c: act(w1_e[f] . x + b1_e[f]), or the gated unit of wGate_e[f] . x + bGate_e[f] and
 * wUp_e[f] . x + bUp_e[f].
 */
const hiddenKernel = defineKernel({
  name: "expertsFewHidden",
  bindings: (v: FewVariant) => ({
    x: `read ${element(v, "f32")}` as const,
    indices: "read i32",
    first: `read ${element(v, v.weights)}`,
    ...(v.gated ? { up: `read ${element(v, v.weights)}` } : {}),
    ...(v.bias === undefined ? {} : { bias: `read ${v.bias}` }),
    ...(v.upBias === undefined ? {} : { upBias: `read ${v.upBias}` }),
    hidden: "write f32",
  }),
  params: { experts: "u32", k: "u32", width: "u32", features: "u32" },
  wgsl: (v) => /* wgsl */ `
${head(v)}
${exprFunction("unit", v.gated ? ["x", "up"] : ["x"], v.unit!)}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let choice = group.x;
  let feature = group.y * ${String(OUTPUTS)}u + thread / 8u;
  let expert = indices[choice];
  if (expert < 0 || u32(expert) >= params.experts) { return; }
  let row = u32(expert) * params.features + min(feature, params.features - 1u);
  let token = choice / params.k * params.width;
  var a = T();
  ${v.gated ? "var b = T();" : ""}
  for (var i = thread % 8u; i < params.width; i += 8u) {
    let value = x[token + i];
    a += T(first[row * params.width + i]) * value;
    ${v.gated ? "b += T(up[row * params.width + i]) * value;" : ""}
  }
  ${v.bias === undefined ? "let z = total(fold(a), thread);" : "let z = total(fold(a), thread) + f32(bias[row]);"}
  ${v.gated ? `let up_ = total(fold(b), thread)${v.upBias === undefined ? "" : " + f32(upBias[row])"};` : ""}
  if (thread % 8u == 0u && feature < params.features) {
    hidden[choice * params.features + feature] = ${v.gated ? "unit(z, up_)" : "unit(z)"};
  }
}`,
});

/** out[t, d] = sum over the choices c of t of weight[c] (last_e[d] . hidden[c] + b2_e[d]). */
const outKernel = defineKernel({
  name: "expertsFewOut",
  bindings: (v: FewVariant) => ({
    hidden: `read ${element(v, "f32")}` as const,
    indices: "read i32",
    shares: "read f32",
    last: `read ${element(v, v.weights)}`,
    ...(v.bias === undefined ? {} : { bias: `read ${v.bias}` }),
    out: "write f32",
  }),
  params: { experts: "u32", k: "u32", width: "u32", features: "u32" },
  wgsl: (v) => /* wgsl */ `
${head(v)}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let token = group.x;
  let feature = group.y * ${String(OUTPUTS)}u + thread / 8u;
  var part = 0.0;
  for (var c = token * params.k; c < (token + 1u) * params.k; c++) {
    let expert = indices[c];
    if (expert < 0 || u32(expert) >= params.experts) { continue; }
    let row = u32(expert) * params.features + min(feature, params.features - 1u);
    var a = T();
    for (var i = thread % 8u; i < params.width; i += 8u) { a += T(last[row * params.width + i]) * hidden[c * params.width + i]; }
    part += shares[c] * ${v.bias === undefined ? "fold(a)" : "(fold(a) + select(0.0, f32(bias[row]), thread % 8u == 0u))"};
  }
  let sum = total(part, thread);
  if (thread % 8u == 0u && feature < params.features) { out[token * params.features + feature] = sum; }
}`,
});

/**
 * `mixExperts` for a few tokens, as in decoding: two kernels that read the rows of the chosen experts straight from
 * their stacks. x [tokens, dim], indices i32 and weights [tokens, k]; no gradient.
 */
export function mixFew(x: Tensor, experts: Experts, indices: Tensor, weights: Tensor): Tensor {
  const { gpu } = x;
  const [tokens, dim] = x.shape as [number, number];
  const k = indices.shape[1]!;
  const gated = experts.kind === "glu";
  const [first, last] = gated ? [experts.wGate, experts.wDown] : [experts.w1, experts.w2];
  const [count, hiddenDim] = first.shape as [number, number];
  const vec = dim % 4 === 0 && hiddenDim % 4 === 0;
  const piece = vec ? 4 : 1;
  const unit = gated
    ? unitOf("experts", experts)
    : activationExpr("experts", activationName(experts.activation ?? "relu"));
  const [b1, b2] = gated ? [experts.bGate, experts.bDown] : [experts.b1, experts.b2];
  const upBias = gated ? experts.bUp : undefined;
  const hidden = gpu.empty([indices.size, hiddenDim]);
  const out = gpu.empty([tokens, dim]);
  gpu.run(hiddenKernel, {
    variant: { vec, weights: first.dtype, unit, gated, bias: b1?.dtype, upBias: upBias?.dtype },
    bindings: {
      x,
      indices,
      first,
      up: gated ? experts.wUp : undefined,
      bias: b1,
      upBias,
      hidden,
    },
    params: { experts: count, k, width: dim / piece, features: hiddenDim },
    workgroups: [indices.size, Math.ceil(hiddenDim / OUTPUTS)],
  });
  gpu.run(outKernel, {
    variant: { vec, weights: last.dtype, gated: false, bias: b2?.dtype },
    bindings: { hidden, indices, shares: weights, last, bias: b2, out },
    params: { experts: count, k, width: hiddenDim / piece, features: dim },
    workgroups: [tokens, Math.ceil(dim / OUTPUTS)],
  });
  return out;
}
