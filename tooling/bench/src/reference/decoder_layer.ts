import {
  attention,
  attentionBackward,
  matmul,
  rmsNormBackward,
  rope,
  rowNorm,
  type AttentionShape,
} from "./math.js";

type Numbers = ArrayLike<number>;

/** The decoder layer of the benchmarks: pre-norm, grouped queries, RoPE, SwiGLU. */
export const LAYER: Readonly<
  Record<"dim" | "heads" | "kvHeads" | "headDim" | "hidden" | "seq" | "eps", number>
> = { dim: 256, heads: 8, kvHeads: 2, headDim: 32, hidden: 688, seq: 256, eps: 1e-6 };

const { dim: DIM, hidden: HIDDEN } = LAYER;
const Q_WIDTH = LAYER.heads * LAYER.headDim;
const KV_WIDTH = LAYER.kvHeads * LAYER.headDim;

export type LayerParameter =
  | "input_layernorm.weight"
  | "q_proj.weight"
  | "k_proj.weight"
  | "v_proj.weight"
  | "o_proj.weight"
  | "post_attention_layernorm.weight"
  | "gate_proj.weight"
  | "up_proj.weight"
  | "down_proj.weight";

/** Parameter shapes under Llama's names, matrices [out, in]. */
export const LAYER_SHAPES: Readonly<Record<LayerParameter, readonly number[]>> = {
  "input_layernorm.weight": [DIM],
  "q_proj.weight": [Q_WIDTH, DIM],
  "k_proj.weight": [KV_WIDTH, DIM],
  "v_proj.weight": [KV_WIDTH, DIM],
  "o_proj.weight": [DIM, Q_WIDTH],
  "post_attention_layernorm.weight": [DIM],
  "gate_proj.weight": [HIDDEN, DIM],
  "up_proj.weight": [HIDDEN, DIM],
  "down_proj.weight": [DIM, HIDDEN],
};

export const LAYER_PARAMETERS: readonly LayerParameter[] = Object.keys(LAYER_SHAPES) as LayerParameter[];
export type LayerWeights = Readonly<Record<LayerParameter, Numbers>>;

const sum = (a: Numbers, b: Numbers): Float64Array => Float64Array.from(a, (x, i) => x + b[i]!);
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** Keys and values of earlier tokens, [tokens, kvHeads, headDim] each. */
export interface LayerCache {
  readonly k: Numbers;
  readonly v: Numbers;
}

/** x [seq, dim] through the layer, with what the backward needs. */
function run(x: Numbers, w: LayerWeights, cache?: LayerCache) {
  const { dim, heads, kvHeads, headDim, hidden, eps } = LAYER;
  const seq = x.length / dim;
  const past = cache ? cache.k.length / (kvHeads * headDim) : 0;
  const linear = (a: Numbers, name: LayerParameter): Float64Array => {
    const [out, width] = LAYER_SHAPES[name] as readonly [number, number];
    return matmul(a, w[name], [seq, out, width], { transposeB: true });
  };
  const concat = (a: Numbers, b: Numbers): Float64Array =>
    Float64Array.from({ length: a.length + b.length }, (_, i) => (i < a.length ? a[i]! : b[i - a.length]!));
  const normed = rowNorm(x, w["input_layernorm.weight"], undefined, dim, eps, false);
  const q = rope(linear(normed, "q_proj.weight"), heads, headDim, past);
  const ownK = rope(linear(normed, "k_proj.weight"), kvHeads, headDim, past);
  const ownV = linear(normed, "v_proj.weight");
  const k = cache ? concat(cache.k, ownK) : ownK;
  const v = cache ? concat(cache.v, ownV) : ownV;
  const shape: AttentionShape = {
    heads,
    kvHeads,
    queries: seq,
    keys: past + seq,
    dim: headDim,
    layout: "shd",
  };
  const mixed = attention(q, k, v, shape);
  const middle = sum(x, linear(mixed, "o_proj.weight"));
  const normed2 = rowNorm(middle, w["post_attention_layernorm.weight"], undefined, dim, eps, false);
  const gate = linear(normed2, "gate_proj.weight");
  const up = linear(normed2, "up_proj.weight");
  const act = Float64Array.from({ length: seq * hidden }, (_, i) => gate[i]! * sigmoid(gate[i]!) * up[i]!);
  const out = sum(middle, linear(act, "down_proj.weight"));
  return { seq, shape, normed, q, k, v, mixed, middle, normed2, gate, up, act, out };
}

/** x [seq, dim] -> [seq, dim]. */
export function layerForward(x: Numbers, w: LayerWeights, cache?: LayerCache): Float64Array {
  return run(x, w, cache).out;
}

/** Keys (turned) and values of x's tokens. */
export function layerCache(x: Numbers, w: LayerWeights): LayerCache {
  const { k, v } = run(x, w);
  return { k, v };
}

/** loss = sum((layer(x) - target)^2) / seq, and its gradients in the parameters. */
export function layerLoss(
  x: Numbers,
  target: Numbers,
  w: LayerWeights,
): { loss: number; grads: Record<LayerParameter, Float64Array> } {
  const { dim, heads, kvHeads, headDim, hidden, eps } = LAYER;
  const f = run(x, w);
  const { seq } = f;
  let loss = 0;
  const dOut = Float64Array.from(f.out, (y, i) => {
    loss += (y - target[i]!) ** 2 / seq;
    return (2 * (y - target[i]!)) / seq;
  });
  const grads = {} as Record<LayerParameter, Float64Array>;
  /** Gradient of y = a W^T: stores that of W, returns that of a. */
  const linearBackward = (name: LayerParameter, a: Numbers, g: Numbers): Float64Array => {
    const [out, width] = LAYER_SHAPES[name] as readonly [number, number];
    grads[name] = matmul(g, a, [out, width, seq], { transposeA: true });
    return matmul(g, w[name], [seq, width, out]);
  };
  const dAct = linearBackward("down_proj.weight", f.act, dOut);
  const dGate = new Float64Array(seq * hidden);
  const dUp = new Float64Array(seq * hidden);
  for (let i = 0; i < seq * hidden; i++) {
    const [g, s] = [f.gate[i]!, sigmoid(f.gate[i]!)];
    dUp[i] = dAct[i]! * g * s;
    dGate[i] = dAct[i]! * f.up[i]! * (s + g * s * (1 - s));
  }
  const dNormed2 = sum(
    linearBackward("gate_proj.weight", f.normed2, dGate),
    linearBackward("up_proj.weight", f.normed2, dUp),
  );
  const post = rmsNormBackward(f.middle, w["post_attention_layernorm.weight"], dNormed2, dim, eps);
  grads["post_attention_layernorm.weight"] = post.weight;
  const dMiddle = sum(dOut, post.x);
  const dMixed = linearBackward("o_proj.weight", f.mixed, dMiddle);
  const d = attentionBackward(f.q, f.k, f.v, dMixed, f.shape);
  const dNormed = sum(
    sum(
      linearBackward("q_proj.weight", f.normed, rope(d.q, heads, headDim, 0, -1)),
      linearBackward("k_proj.weight", f.normed, rope(d.k, kvHeads, headDim, 0, -1)),
    ),
    linearBackward("v_proj.weight", f.normed, d.v),
  );
  grads["input_layernorm.weight"] = rmsNormBackward(x, w["input_layernorm.weight"], dNormed, dim, eps).weight;
  return { loss, grads };
}

/** AdamW of the training benchmark. */
export const ADAMW: Readonly<Record<"learningRate" | "beta1" | "beta2" | "eps" | "weightDecay", number>> = {
  learningRate: 1e-3,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0.01,
};

/** What one AdamW step from zero moments adds to a parameter. */
export function firstAdamWUpdate(parameter: Numbers, grad: Numbers): Float64Array {
  const { learningRate, eps, weightDecay } = ADAMW;
  return Float64Array.from(
    parameter,
    (p, i) => -learningRate * (grad[i]! / (Math.abs(grad[i]!) + eps) + weightDecay * p),
  );
}
