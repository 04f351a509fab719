import {
  add,
  ConfigError,
  expectShape,
  integer,
  oneOf,
  schema,
  tensor,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { chunkOf, expectFloat32 } from "../decay/decayed_attention.js";
import { checkRetention, logGammas, retain, RETENTION_FIELDS } from "./retention.js";
import {
  checkRetentionHeads,
  HEADS_FIELDS,
  RetentionHeads,
  retentionHeadsPlan,
  ROTARY,
  ROTARY_DOC,
  type RetentionHeadsSettings,
} from "./retention_heads.js";
import { MAX_POSITIONS, type FirstPosition } from "../state/rotation.js";
import { rowNorms } from "../state/row_norms.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import {
  expectInput,
  type SequenceState,
  type StateOptions,
  type StatePlan,
} from "../state/sequence_state.js";

const LAYER = schema("MultiScaleRetention", {
  ...HEADS_FIELDS,
  valueDim: integer("Width of all values, a multiple of numHeads.", { min: 1, defaultDoc: "2 dim" }),
  rotary: oneOf(ROTARY_DOC, ROTARY, { default: "retnet" }),
  ...RETENTION_FIELDS,
});
export type MultiScaleRetentionConfig = Config<typeof LAYER>;

/** A layer's outputs over a state that is a plain tensor. */
export interface RetentionLayerOutputs {
  readonly out: Tensor;
  /** [batch, numHeads, headDim, valueDim / numHeads] */
  readonly state: Tensor;
}

/** The options of a retention layer's `outputs`. */
export const INPUT = schema("outputs", {
  state: tensor("S before the first token; zeros where it is left out.", { optional: true }),
  offset: integer("Tokens before x.", { min: 0, max: MAX_POSITIONS - 1, default: 0 }),
  residual: tensor("Added to the output.", { optional: true }),
});
export type RetentionLayerInput = Config<typeof INPUT>;

/**
 * Multi-scale retention, RetNet's layer: q, k, v = split(x Wq^T), split(x Wk^T), split(x Wv^T); q and k turned by position;
 * o = retention(q, k, v); out = (silu(x Wg^T) * norm_head(o)) Wo^T. The rotation is xPos without its scaling, which the
 * decay replaces.
 *
 * x [batch, tokens, dim], f32, positions below 2^18. Parameters q_proj, k_proj [dim, dim], v_proj, g_proj [valueDim, dim],
 * o_proj [dim, valueDim] (`.weight`), no biases. Sun et al. 2023, arXiv:2307.08621, section 2.2.
 */
export class MultiScaleRetention extends SequenceMixer<typeof LAYER> {
  static readonly schema = LAYER;
  readonly #heads: RetentionHeads;
  #logDecay: Tensor | undefined;

  /** Names, shapes and initial values of the parameters: normal matrices. @throws ConfigError */
  static plan(config: MultiScaleRetentionConfig): ParameterPlan {
    return retentionHeadsPlan(settingsOf(config));
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: MultiScaleRetentionConfig, parameters: Parameters) {
    super(LAYER, config, MultiScaleRetention.plan(config), parameters);
    this.#heads = this.own(new RetentionHeads(settingsOf(config), this.weights));
  }

  /**
   * An empty state, whose size does not depend on the text's length.
   *
   * @throws ConfigError, also if there is a denominator
   */
  override createState(options: StateOptions): SequenceState {
    const { denominator } = this.config;
    if (denominator !== "none")
      throw new ConfigError(
        LAYER.name,
        `denominator is "${denominator}"; it needs a whole sequence, so there is no state`,
      );
    return super.createState(options);
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
    const { decay, decayNorm, scale } = this.config;
    const tokens = checkInput(who, x, { state, residual }, this.#heads.settings);
    return x.gpu.scope(() => {
      const logDecay = (this.#logDecay ??= this.own(
        x.gpu.keep(x.gpu.tensor(logGammas(decay, numHeads), [numHeads])),
      ));
      const { q, k, v } = this.#heads.project(x, first);
      const { out, state: next } = retain(
        who,
        { q, k, v, logDecay, state },
        this.config,
        {
          chunk: tokens === 1 ? undefined : chunkOf(who, this.config, tokens),
          scale: scale ?? (dim / numHeads) ** -0.5,
          layout: "bshd",
        },
        decayNorm ? rowNorms(logDecay, tokens, first, "tokens") : undefined,
      );
      return { out: this.#heads.finish(x, out, residual), state: next };
    });
  }
}

/** @throws ConfigError */
function settingsOf(config: MultiScaleRetentionConfig): RetentionHeadsSettings {
  const read = LAYER.read(config);
  const settings = { ...read, valueDim: read.valueDim ?? 2 * read.dim };
  checkRetentionHeads(LAYER.name, settings);
  checkRetention(LAYER.name, read, read.numHeads);
  return settings;
}

/** Tokens of x. @throws ShapeError, DTypeError, ConfigError */
export function checkInput(
  who: string,
  x: Tensor,
  { state, residual }: RetentionLayerInput,
  { dim, numHeads, valueDim }: RetentionHeadsSettings,
): number {
  const { batch, tokens } = expectInput(who, x, dim, residual);
  if (state) expectShape(who, "state", state, [batch, numHeads, dim / numHeads, valueDim / numHeads]);
  expectFloat32(who, { state });
  return tokens;
}

/** S, and the position of the next token, kept on the device for recorded steps. */
export function retentionStatePlan(
  { dim, numHeads, valueDim }: RetentionHeadsSettings,
  batch: number,
): StatePlan {
  return {
    state: { shape: [batch, numHeads, dim / numHeads, valueDim / numHeads] },
    position: { shape: [1] },
  };
}

/** Run over what a layer's state holds, and give what it holds next. */
export function stepped(
  x: Tensor,
  { state, position, residual }: Given,
  run: (input: RetentionLayerInput, first: FirstPosition) => RetentionLayerOutputs,
): RetentionLayerOutputs & { readonly position?: Tensor } {
  const next = run({ state, residual }, position ?? 0);
  return position ? { ...next, position: add(position, x.shape[1]!) } : next;
}
