import {
  checkConfig,
  ConfigError,
  elementwise,
  e,
  expectInteger,
  expectNumber,
  linear,
  type Tensor,
} from "@x/kernels";
import { mergeHeads, splitHeads } from "./heads.js";
import { matrix, ones, type Plan } from "../parameters.js";
import { plainRmsNorm, type Parts } from "./parts.js";

/** Sizes of the blocks that the compositions (RMT, Top-Down, SLED, YOCO) are made of. */
export interface BlockConfig {
  readonly dim: number;
  readonly numHeads: number;
  readonly headDim: number;
  readonly ffnDim: number;
  /** Default 1e-6. */
  readonly normEps?: number;
}

const BLOCK_KEYS = ["dim", "numHeads", "headDim", "ffnDim", "normEps"];

/** Check a composition's configuration: its own keys and the block's. */
export function checkBlockConfig(who: string, config: BlockConfig, own: readonly string[]): void {
  checkConfig(who, config, [...BLOCK_KEYS, ...own]);
  const { dim, numHeads, headDim, ffnDim, normEps } = config;
  for (const [name, n] of Object.entries({ dim, numHeads, headDim, ffnDim })) expectInteger(who, name, n, 1);
  if (normEps !== undefined) expectNumber(who, "normEps", normEps, 0);
}

export const feedForwardPlan = ({ dim, ffnDim }: BlockConfig): Plan => ({
  "post_attention_layernorm.weight": ones(dim),
  "mlp.gate_proj.weight": matrix(ffnDim, dim),
  "mlp.up_proj.weight": matrix(ffnDim, dim),
  "mlp.down_proj.weight": matrix(dim, ffnDim),
});

/** Parameters of a block; with `cross` also those of its cross-attention. */
export function blockPlan(config: BlockConfig, cross = false): Plan {
  const { dim, numHeads, headDim } = config;
  const inner = numHeads * headDim;
  const projections = (prefix: string): Plan => ({
    [`${prefix}.q_proj.weight`]: matrix(inner, dim),
    [`${prefix}.k_proj.weight`]: matrix(inner, dim),
    [`${prefix}.v_proj.weight`]: matrix(inner, dim),
    [`${prefix}.o_proj.weight`]: matrix(dim, inner),
  });
  return {
    "input_layernorm.weight": ones(dim),
    ...projections("self_attn"),
    ...(cross ? { "cross_attn_layernorm.weight": ones(dim), ...projections("cross_attn") } : {}),
    ...feedForwardPlan(config),
  };
}

/** Plans of several layers under PREFIX.0, PREFIX.1, ... */
export function layersPlan(prefix: string, count: number, plan: Plan): Plan {
  return Object.fromEntries(
    Array.from({ length: count }, (_, l) =>
      Object.entries(plan).map(([name, entry]) => [`${prefix}.${l}.${name}`, entry] as const),
    ).flat(),
  );
}

/** A block's sizes and the norm that it uses. */
export interface BlockContext {
  readonly numHeads: number;
  readonly norm: (x: Tensor, weight: Tensor) => Tensor;
}

export function blockContext(config: BlockConfig, { rmsNorm = plainRmsNorm }: Parts = {}): BlockContext {
  const { numHeads, normEps: eps = 1e-6 } = config;
  return { numHeads, norm: (x, weight) => rmsNorm(x, { weight, eps }) };
}

/** Attention over [batch, seq, heads, headDim] ("bshd"); where masks and caches come in. */
export type Attend = (q: Tensor, k: Tensor, v: Tensor) => Tensor;
export type Parameters = Readonly<Record<string, Tensor>>;

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

/** Checks counts of layers: each is an integer of at least `min`. @throws ConfigError */
export function expectLayers(who: string, counts: Readonly<Record<string, number>>, min = 1): void {
  for (const [name, n] of Object.entries(counts)) expectInteger(who, name, n, min);
}

/** Refuse a sequence without tokens. */
export function expectTokens(who: string, seq: number, name = "x"): void {
  if (seq === 0) throw new ConfigError(who, `${name} has no tokens; it must have at least one`);
}
