import { expectShape, number, schema, tensor, type Config, type Tensor } from "@x/kernels";
import {
  chunkOf,
  decayedAttention,
  expectFloat32,
  expectHeads,
  FORM_FIELDS,
} from "../decay/decayed_attention.js";

const OPTIONS = schema("gatedRetention", {
  ...FORM_FIELDS,
  state: tensor("S before the first token, [batch, heads, dim, valueDim].", { defaultDoc: "zeros" }),
  scale: number("Factor of k.", { defaultDoc: "dim^-0.5" }),
});
export type GatedRetentionOptions = Config<typeof OPTIONS>;

/**
 * Retention whose decay depends on the token (gRet): S_t = exp(logDecay_t) S_{t-1} + scale k_t^T v_t, out_t = q_t S_t.
 *
 * q, k [batch, heads, tokens, dim], v [batch, heads, tokens, valueDim], logDecay [batch, heads, tokens], at most 0; all
 * f32. Gives out [batch, heads, tokens, valueDim] and the state after the last token, which continues the sequence.
 * Differentiable in all five. Sun et al. 2024, arXiv:2405.05254 (YOCO), section 3.1.
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function gatedRetention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  logDecay: Tensor,
  options: GatedRetentionOptions = {},
): { out: Tensor; state: Tensor } {
  const who = OPTIONS.name;
  const { state, scale, form, chunkSize } = OPTIONS.read(options);
  const { batch, heads, tokens, dim } = expectHeads(who, { q, k, v, state });
  expectShape(who, "logDecay", logDecay, [batch, heads, tokens]);
  expectFloat32(who, { logDecay });
  return decayedAttention(
    who,
    { q, k, v, logDecay, state },
    { chunk: chunkOf(who, { form, chunkSize }, tokens), scale: scale ?? dim ** -0.5 },
  );
}
