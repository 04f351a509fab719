import { schema, type Tensor } from "@x/kernels";
import { DELTA_FIELDS, memory, type DeltaRuleOptions, type MemoryOutputs } from "./options.js";

const KDA = schema("kda", DELTA_FIELDS);

/**
 * Kimi delta attention: a delta rule whose state fades by channel of the keys,
 *
 *   S' = diag(e^(g_t)) S_{t-1}, u_t = beta_t (v_t - k_t S'), S_t = S' + k_t^T u_t, out_t = scale q_t S_t.
 *
 * g [batch, heads, tokens, dim], at most 0, is the log decay; the other tensors, heads and options are those of
 * `deltaRule`. Differentiable in all six.
 *
 * Kimi Team 2025, arXiv:2510.26692.
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function kda(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  g: Tensor,
  beta: Tensor,
  options: DeltaRuleOptions = {},
): MemoryOutputs {
  return memory(KDA, { q, k, v, g, beta }, options, "always");
}
