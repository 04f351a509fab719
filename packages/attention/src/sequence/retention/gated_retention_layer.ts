import {
  e,
  elementwise,
  integer,
  linear,
  matrix,
  number,
  oneOf,
  schema,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { chunkOf, decayedAttention, FORM_FIELDS } from "../decay/decayed_attention.js";
import {
  checkInput,
  INPUT,
  retentionStatePlan,
  stepped,
  type RetentionLayerInput,
  type RetentionLayerOutputs,
} from "./multi_scale_retention.js";
import {
  checkRetentionHeads,
  HEADS_FIELDS,
  RetentionHeads,
  retentionHeadsPlan,
  ROTARY,
  ROTARY_DOC,
  type RetentionHeadsSettings,
} from "./retention_heads.js";
import type { FirstPosition } from "../state/rotation.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import type { StatePlan } from "../state/sequence_state.js";

const LAYER = schema("GatedRetention", {
  ...HEADS_FIELDS,
  valueDim: integer("Width of all values, a multiple of numHeads.", { min: 1, defaultDoc: "dim" }),
  rotary: oneOf(ROTARY_DOC, ROTARY, { default: "rope" }),
  ...FORM_FIELDS,
  scale: number("Factor of k.", { defaultDoc: "headDim^-0.5" }),
  gateLogitNormalizer: number("Divides the log of the decay.", { min: Number.MIN_VALUE, default: 16 }),
});
export type GatedRetentionLayerConfig = Config<typeof LAYER>;

// log sigmoid z = -softplus(-z).
const logSigmoid = elementwise("logSigmoid", ["z", "factor"], (z, factor) =>
  e.mul(e.neg(e.softplus(e.neg(z))), factor),
);

/**
 * Gated retention as a layer (gRet): multi-scale retention whose decay is log sigmoid(x Wd^T) / gateLogitNormalizer for each
 * head and token.
 *
 * x [batch, tokens, dim], f32, positions below 2^18. Parameters q_proj, k_proj [dim, dim], v_proj, g_proj [valueDim, dim],
 * gt_proj [numHeads, dim] (the decay), o_proj [dim, valueDim] (`.weight`), no biases.
 * Sun et al. 2024, arXiv:2405.05254 (YOCO), section 3.1.
 */
export class GatedRetention extends SequenceMixer<typeof LAYER> {
  static readonly schema = LAYER;
  readonly #heads: RetentionHeads;

  /** Names, shapes and initial values of the parameters: normal matrices. @throws ConfigError */
  static plan(config: GatedRetentionLayerConfig): ParameterPlan {
    const settings = settingsOf(config);
    return { ...retentionHeadsPlan(settings), "gt_proj.weight": matrix(settings.numHeads, settings.dim) };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: GatedRetentionLayerConfig, parameters: Parameters) {
    super(LAYER, config, GatedRetention.plan(config), parameters);
    this.#heads = this.own(new RetentionHeads(settingsOf(config), this.weights));
  }

  protected statePlan(batch: number): StatePlan {
    return retentionStatePlan(this.#heads.settings, batch);
  }

  protected run(x: Tensor, given: Given): RetentionLayerOutputs {
    return stepped(x, given, (input, first) => this.#run(x, input, first));
  }

  /** `forward` over a state that is a plain tensor, with gradients. @throws ShapeError, DTypeError, ConfigError */
  outputs(x: Tensor, input: RetentionLayerInput = {}): RetentionLayerOutputs {
    return this.#run(x, input, INPUT.read(input, LAYER.name).offset);
  }

  #run(x: Tensor, { state, residual }: RetentionLayerInput, first: FirstPosition): RetentionLayerOutputs {
    const who = LAYER.name;
    const { numHeads, dim } = this.#heads.settings;
    const { scale, gateLogitNormalizer } = this.config;
    const tokens = checkInput(who, x, { state, residual }, this.#heads.settings);
    return x.gpu.scope(() => {
      const { q, k, v } = this.#heads.project(x, first);
      const logDecay = logSigmoid(linear(x, this.weights["gt_proj.weight"]!), 1 / gateLogitNormalizer);
      const { out, state: next } = decayedAttention(
        who,
        { q, k, v, logDecay, state },
        {
          chunk: tokens === 1 ? undefined : chunkOf(who, this.config, tokens),
          scale: scale ?? (dim / numHeads) ** -0.5,
          layout: "bshd",
        },
      );
      return { out: this.#heads.finish(x, out, residual), state: next };
    });
  }
}

/** @throws ConfigError */
function settingsOf(config: GatedRetentionLayerConfig): RetentionHeadsSettings {
  const read = LAYER.read(config);
  const settings = { ...read, valueDim: read.valueDim ?? read.dim };
  checkRetentionHeads(LAYER.name, settings);
  chunkOf(LAYER.name, read, 1);
  return settings;
}
