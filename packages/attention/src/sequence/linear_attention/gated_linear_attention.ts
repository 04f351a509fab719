import { schema, type Tensor } from "@x/kernels";
import { memory, MEMORY_FIELDS, type MemoryOptions, type MemoryOutputs } from "../delta/options.js";

const GATED_LINEAR_ATTENTION = schema("gatedLinearAttention", MEMORY_FIELDS);

/**
 * Gated linear attention: linear attention without feature maps whose state fades by channel of the keys,
 *
 *   S_t = diag(e^(g_t)) S_{t-1} + k_t^T v_t, out_t = scale q_t S_t.
 *
 * q, k, v and their heads are those of `deltaRule`; g [batch, heads, tokens, dim], at most 0, is the log decay, or
 * [batch, heads, tokens] where the channels of a head fade together. All f32; differentiable in all five.
 *
 * Yang et al. 2023, arXiv:2312.06635, equation 3.
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function gatedLinearAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  g: Tensor,
  options: MemoryOptions = {},
): MemoryOutputs {
  return memory(GATED_LINEAR_ATTENTION, { q, k, v, g }, options, "either");
}
