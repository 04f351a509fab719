import {
  boolean,
  ConfigError,
  e,
  elementwise,
  expectShape,
  integer,
  listOf,
  number,
  oneOf,
  schema,
  stopGradient,
  type Config,
  type Tensor,
} from "@x/kernels";
import { attentionOutputs } from "../engine/attention.js";
import { finite } from "../engine/lse.js";
import { mergeAttention } from "../engine/merge.js";
import { dilatedSegment } from "../patterns/pattern.js";

const OPTIONS = schema("longNetAttention", {
  segmentLengths: listOf(integer("Tokens.", { min: 1 }), "Segment length of each pattern of the mixture."),
  dilations: listOf(integer("Distance.", { min: 1 }), "Dilation of each pattern."),
  causal: boolean("Hides keys after the query.", { default: false }),
  headOffset: oneOf(
    'Rows of a segment that a head takes: "mod" (the paper): those at h mod r; "block": as torchscale.',
    ["mod", "block"],
    { default: "mod" },
  ),
  detachWeights: boolean("No gradient through the mixing weights, as torchscale does.", { default: false }),
  scale: number("Factor of q.k.", { defaultDoc: "headDim^-0.5" }),
});
export type LongNetOptions = Config<typeof OPTIONS>;

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
  const { name: who } = OPTIONS;
  const { segmentLengths, dilations, causal, headOffset, detachWeights, scale } = OPTIONS.read(options);
  if (segmentLengths.length === 0 || segmentLengths.length !== dilations.length)
    throw new ConfigError(
      who,
      `segmentLengths has ${segmentLengths.length} entries, dilations ${dilations.length}; they need one count of at least 1`,
    );
  const names = expectShape(who, "q", q, ["batch", "heads", "seq", "headDim"]);
  for (const [name, t] of Object.entries({ k, v }))
    expectShape(who, name, t, ["batch", null, "seq", null], names);
  return q.gpu.scope(() => {
    const parts = segmentLengths.map((segment, p) =>
      attentionOutputs(q, k, v, {
        queryOffset: 0,
        scale,
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
