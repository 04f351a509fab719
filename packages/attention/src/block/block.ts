import {
  ConfigError,
  elementwise,
  e,
  integer,
  linear,
  matrix,
  number,
  ones,
  prefixed,
  subParameters,
  type ConfigOf,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { mergeHeads, splitHeads } from "./heads.js";
import { checkParts, plainRmsNorm, type Parts } from "./parts.js";

/** Sizes of the blocks that the compositions (RMT, Top-Down, SLED, YOCO) are made of. */
export const BLOCK_FIELDS = {
  dim: integer("Width of x and of the output.", { min: 1 }),
  numHeads: integer("Heads.", { min: 1 }),
  headDim: integer("Features of a head.", { min: 1 }),
  ffnDim: integer("Width inside the gated feed-forward block.", { min: 1 }),
  normEps: number("Added to the mean square in every norm.", { min: 0, default: 1e-6 }),
};
export type BlockConfig = ConfigOf<typeof BLOCK_FIELDS>;

export const feedForwardPlan = ({ dim, ffnDim }: BlockConfig): ParameterPlan => ({
  "post_attention_layernorm.weight": ones(dim),
  "mlp.gate_proj.weight": matrix(ffnDim, dim),
  "mlp.up_proj.weight": matrix(ffnDim, dim, "value"),
  "mlp.down_proj.weight": matrix(dim, ffnDim, "output"),
});

/** Parameters of a block; with `cross` also those of its cross-attention. */
export function blockPlan(config: BlockConfig, cross = false): ParameterPlan {
  const { dim, numHeads, headDim } = config;
  const inner = numHeads * headDim;
  const projections: ParameterPlan = {
    "q_proj.weight": matrix(inner, dim),
    "k_proj.weight": matrix(inner, dim),
    "v_proj.weight": matrix(inner, dim, "value"),
    "o_proj.weight": matrix(dim, inner, "output"),
  };
  return {
    "input_layernorm.weight": ones(dim),
    ...prefixed("self_attn", projections),
    ...(cross ? { "cross_attn_layernorm.weight": ones(dim), ...prefixed("cross_attn", projections) } : {}),
    ...feedForwardPlan(config),
  };
}

/** Plans of several layers under PREFIX.0, PREFIX.1, ... */
export const layersPlan = (prefix: string, count: number, plan: ParameterPlan): ParameterPlan =>
  Object.fromEntries(
    Array.from({ length: count }, (_, l) => Object.entries(prefixed(`${prefix}.${l}`, plan))).flat(),
  );

/** A block's sizes and the norm that it uses. */
export interface BlockContext {
  readonly numHeads: number;
  readonly norm: (x: Tensor, weight: Tensor) => Tensor;
}

export function blockContext(who: string, config: BlockConfig, parts: Parts): BlockContext {
  checkParts(who, parts);
  const { rmsNorm = plainRmsNorm } = parts;
  const { numHeads, normEps: eps = 1e-6 } = config;
  return { numHeads, norm: (x, weight) => rmsNorm(x, { weight, eps }) };
}

/** Attention over [batch, seq, heads, headDim] ("bshd"); where masks and caches come in. */
export type Attend = (q: Tensor, k: Tensor, v: Tensor) => Tensor;

const gated = elementwise("silu(gate) up", ["gate", "up"], (gate, up) => e.mul(e.silu(gate), up));

/** h + (silu(a W1^T) (a W3^T)) W2^T with a = RMSNorm(h). */
export function feedForward(h: Tensor, p: Parameters, { norm }: BlockContext): Tensor {
  const a = norm(h, p["post_attention_layernorm.weight"]!);
  const inner = gated(linear(a, p["mlp.gate_proj.weight"]!), linear(a, p["mlp.up_proj.weight"]!));
  return linear(inner, p["mlp.down_proj.weight"]!, undefined, { residual: h });
}

/** h + MHA(RMSNorm(h)). */
function selfAttention(h: Tensor, p: Parameters, { numHeads, norm }: BlockContext, attend: Attend): Tensor {
  const a = norm(h, p["input_layernorm.weight"]!);
  const cut = (name: string): Tensor => splitHeads(a, numHeads, p[`self_attn.${name}.weight`]!);
  const o = attend(cut("q_proj"), cut("k_proj"), cut("v_proj"));
  return mergeHeads(o, p["self_attn.o_proj.weight"]!, undefined, h);
}

/** Keys and values of a context, [batch, keys, heads, headDim]. */
export function contextHeads(
  context: Tensor,
  p: Parameters,
  { numHeads }: { readonly numHeads: number },
): { keys: Tensor; values: Tensor } {
  const cut = (name: string): Tensor => splitHeads(context, numHeads, p[`cross_attn.${name}.weight`]!);
  return { keys: cut("k_proj"), values: cut("v_proj") };
}

/** h + CrossMHA(RMSNorm(h), context). */
function crossAttention(
  h: Tensor,
  p: Parameters,
  { numHeads, norm }: BlockContext,
  attend: (q: Tensor) => Tensor,
): Tensor {
  const a = norm(h, p["cross_attn_layernorm.weight"]!);
  const o = attend(splitHeads(a, numHeads, p["cross_attn.q_proj.weight"]!));
  return mergeHeads(o, p["cross_attn.o_proj.weight"]!, undefined, h);
}

/** One block: self-attention, then (with `cross`) cross-attention, then the FFN, each with its norm and residual. */
export function block(
  h: Tensor,
  p: Parameters,
  context: BlockContext,
  attend: Attend,
  cross?: (q: Tensor) => Tensor,
): Tensor {
  return h.gpu.scope(() => {
    const mixed = selfAttention(h, p, context, attend);
    return feedForward(cross ? crossAttention(mixed, p, context, cross) : mixed, p, context);
  });
}

/** The parameters of each of the layers PREFIX.0, PREFIX.1, ... */
export const layersOf = (p: Parameters, prefix: string, count: number): Parameters[] =>
  Array.from({ length: count }, (_, l) => subParameters(p, `${prefix}.${l}`));

/** Runs blocks one after the other; `attend` and `cross` are told which one, `cross` also its parameters. */
export function blocks(
  h: Tensor,
  layers: readonly Parameters[],
  context: BlockContext,
  attend: (q: Tensor, k: Tensor, v: Tensor, l: number) => Tensor,
  cross?: (q: Tensor, p: Parameters, l: number) => Tensor,
): Tensor {
  return layers.reduce(
    (z, p, l) => block(z, p, context, (q, k, v) => attend(q, k, v, l), cross && ((q) => cross(q, p, l))),
    h,
  );
}

/** Refuses a sequence without tokens. @throws ConfigError */
export function expectTokens(who: string, seq: number, name = "x"): void {
  if (seq === 0) throw new ConfigError(who, `${name} has no tokens; it must have at least one`);
}
