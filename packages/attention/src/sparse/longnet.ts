import {
  checkConfig,
  ConfigError,
  e,
  elementwise,
  expectBoolean,
  expectInteger,
  expectShape,
  stopGradient,
  type Tensor,
} from "@x/kernels";
import { attentionOutputs } from "../engine/attention.js";
import { finite } from "../engine/lse.js";
import { mergeAttention } from "../engine/merge.js";
import { dilatedSegment } from "../patterns/pattern.js";

export interface LongNetOptions {
  /** Segment lengths and their dilations, one pair for each pattern of the mixture. */
  readonly segmentLengths: readonly number[];
  readonly dilations: readonly number[];
  readonly causal?: boolean;
  /** Which rows of a segment a head takes: "mod" (default; the paper): h mod r; "block" (torchscale). */
  readonly headOffset?: "mod" | "block";
  /** No gradient through the mixing weights, as torchscale does. Default false. */
  readonly detachWeights?: boolean;
  /** Factor of q.k; default headDim^-0.5. */
  readonly scale?: number;
}

// A row that no pattern has: every lse is -inf, every output 0.
const share = elementwise("longNetShare", ["lse", "total"], (lse, total) =>
  e.exp(e.sub(finite(lse), finite(total))),
);
const addShare = elementwise("longNetMix", ["sum", "share", "out"], (sum, share, out) =>
  e.add(sum, e.mul(share, out)),
);

/**
 * LongNet's dilated attention: attention inside each pattern's dilated segments, mixed by the softmax denominators:
 * out_i = sum_p a_p,i O_p,i, a_p,i = exp(lse_p,i) / sum_p' exp(lse_p',i). A row in no pattern gives 0.
 *
 * q [batch, heads, seq, headDim], k and v [batch, kvHeads, seq, headDim]; gives [batch, heads, seq, headDim].
 * Ding et al. 2023, arXiv:2307.02486, sections 2.2 and 2.3.
 *
 * @throws ConfigError, ShapeError
 */
export function longNetAttention(q: Tensor, k: Tensor, v: Tensor, options: LongNetOptions): Tensor {
  const who = "longNetAttention";
  checkConfig(who, options, [
    "segmentLengths",
    "dilations",
    "causal",
    "headOffset",
    "detachWeights",
    "scale",
  ]);
  const { segmentLengths, dilations, causal = false, headOffset = "mod", detachWeights = false } = options;
  if (segmentLengths.length === 0 || segmentLengths.length !== dilations.length)
    throw new ConfigError(
      who,
      `segmentLengths has ${segmentLengths.length} entries, dilations ${dilations.length}; they need one count of at least 1`,
    );
  segmentLengths.forEach((w, p) => {
    expectInteger(who, `segmentLengths[${p}]`, w, 1);
    expectInteger(who, `dilations[${p}]`, dilations[p], 1);
  });
  expectBoolean(who, "detachWeights", detachWeights);
  const names = expectShape(who, "q", q, ["batch", "heads", "seq", "headDim"]);
  for (const [name, t] of Object.entries({ k, v }))
    expectShape(who, name, t, ["batch", null, "seq", null], names);
  return q.gpu.scope(() => {
    const parts = segmentLengths.map((segment, p) =>
      attentionOutputs(q, k, v, {
        queryOffset: 0,
        ...(options.scale === undefined ? {} : { scale: options.scale }),
        pattern: dilatedSegment(segment, dilations[p]!, { headOffset, causal }),
      }),
    );
    const [first, ...rest] = parts;
    const merged = rest.reduce<{ out: Tensor; lse: Tensor }>(
      (sum, part) => mergeAttention(sum, part),
      first!,
    );
    if (!detachWeights) return merged.out;
    const weight = (lse: Tensor): Tensor => {
      const a = share(stopGradient(lse), stopGradient(merged.lse));
      return a.reshape([...a.shape, 1]);
    };
    return parts.reduce<Tensor>(
      (sum, { out, lse }) => addShare(sum, weight(lse), out),
      q.gpu.zeros(first!.out.shape, first!.out.dtype),
    );
  });
}
