import { schema, type Tensor } from "@x/kernels";
import { DELTA_FIELDS, memory, type DeltaRuleOptions, type MemoryOutputs } from "./options.js";

const GATED_DELTA_RULE = schema("gatedDeltaRule", DELTA_FIELDS);

/**
 * The gated delta rule: a delta rule whose state fades by one number for a head and token,
 *
 *   S' = e^(g_t) S_{t-1}, u_t = beta_t (v_t - k_t S'), S_t = S' + k_t^T u_t, out_t = scale q_t S_t.
 *
 * g [batch, heads, tokens], at most 0, is the log decay; the other tensors, heads and options are those of `deltaRule`.
 * Differentiable in all six.
 *
 * Yang et al. 2024, arXiv:2412.06464 (the operator of Qwen3-Next).
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function gatedDeltaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  g: Tensor,
  beta: Tensor,
  options: DeltaRuleOptions = {},
): MemoryOutputs {
  return memory(GATED_DELTA_RULE, { q, k, v, g, beta }, options);
}
