import { schema, type Tensor } from "@x/kernels";
import { DELTA_FIELDS, memory, type DeltaRuleOptions, type MemoryOutputs } from "./options.js";

const DELTA_RULE = schema("deltaRule", DELTA_FIELDS);

/**
 * The delta rule: linear attention that erases what stands at a key before it writes there,
 *
 *   u_t = beta_t (v_t - k_t S_{t-1}), S_t = S_{t-1} + k_t^T u_t, out_t = scale q_t S_t.
 *
 * q [batch, queryHeads, tokens, dim], k [batch, keyHeads, tokens, dim], v [batch, heads, tokens, valueDim], beta
 * [batch, heads, tokens], or by `layout`; all f32. Head h of v takes the key head floor(h keyHeads / heads), and its query
 * head likewise; where there are more query heads than heads, each takes the state of head floor(h heads / queryHeads). The
 * output has as many heads as the larger of the two. Differentiable in all five.
 * Keys of length 1 (`qkL2norm`) and beta in 0..1 (to 2) keep the state bounded.
 *
 * Schlag et al. 2021, arXiv:2102.11174; Yang et al. 2024, arXiv:2406.06484.
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function deltaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  beta: Tensor,
  options: DeltaRuleOptions = {},
): MemoryOutputs {
  return memory(DELTA_RULE, { q, k, v, beta }, options);
}
