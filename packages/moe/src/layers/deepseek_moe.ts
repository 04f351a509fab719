import { expectOneOf, integer, linear, schema, tensor, type Config, type Tensor } from "@x/kernels";
import { expectRouted, type GatedExperts } from "../experts/expert_weights.js";
import { mixExperts } from "../experts/experts.js";
import { expectShared, sharedUnits, type SharedExperts } from "../experts/shared_experts.js";
import { checkDeepseekRouter, DEEPSEEK_FIELDS, deepseekRouter } from "../router/deepseek_router.js";

const OPTIONS = schema("deepseekMoe", {
  topK: integer("Routed experts of a token.", { min: 1 }),
  ...DEEPSEEK_FIELDS,
  bias: tensor("[experts]: added to the scores for choosing only (V3); no gradient.", { optional: true }),
});
export type DeepSeekMoeOptions = Config<typeof OPTIONS>;

export interface DeepSeekMoeResult {
  /** In the shape of x. */
  readonly out: Tensor;
  /** [..., experts] */
  readonly logits: Tensor;
  /** Scores of the experts, [..., experts]. */
  readonly probs: Tensor;
  /** i32 [..., topK] */
  readonly indices: Tensor;
  /** [..., topK] */
  readonly weights: Tensor;
  /** [..., 1]: the factor of the shared experts, where they have a gate. */
  readonly sharedGate?: Tensor | undefined;
}

/**
 * DeepSeekMoE: many fine-grained experts of which each token visits topK, and shared experts that see every token:
 * out = sum_k weights_k expert_k(x) + shared(x), with a gate (Qwen2-MoE, Qwen3-Next) sigmoid(x gate^T) shared(x). The choice
 * and the weights are `deepseekRouter`'s of x wRouter^T.
 *
 * x [..., tokens, dim], wRouter [experts, dim]; float32. Dai et al. 2024, arXiv:2401.06066, equations 9-11; V2, arXiv:2405.04434,
 * section 2.2; V3, arXiv:2412.19437, equations 12-16.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function deepseekMoe(
  x: Tensor,
  wRouter: Tensor,
  experts: GatedExperts,
  shared: SharedExperts | undefined,
  options: DeepSeekMoeOptions,
): DeepSeekMoeResult {
  const who = OPTIONS.name;
  const numExperts = expectRouted(who, x, wRouter, experts);
  expectOneOf(who, "kind of the experts", experts.kind, ["glu"]);
  const router = OPTIONS.read(options);
  checkDeepseekRouter(who, x.shape.slice(0, -1), numExperts, router);
  const dim = x.shape.at(-1)!;
  if (shared !== undefined) expectShared(who, shared, dim);
  return x.gpu.scope(() => {
    const logits = linear(x, wRouter);
    const { scores, indices, weights } = deepseekRouter(logits, router);
    const routed = mixExperts(x, experts, indices, weights);
    if (!shared) return { out: routed, logits, probs: scores, indices, weights };
    const rows = x.reshape([x.size / dim, dim]);
    const { units, gate } = sharedUnits(rows, shared, experts);
    const out = linear(units, shared.wDown, undefined, { residual: routed.reshape(rows.shape) });
    return {
      out: out.reshape(x.shape),
      ...{ logits, probs: scores, indices, weights },
      ...(gate ? { sharedGate: gate.reshape([...x.shape.slice(0, -1), 1]) } : {}),
    };
  });
}
