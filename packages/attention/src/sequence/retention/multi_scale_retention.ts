import {
  add,
  checkConfig,
  ConfigError,
  expectInteger,
  expectShape,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { checkParameters, initParameters, type InitOptions, type Plan } from "../../parameters.js";
import { chunkOf, expectFloat32 } from "../decay/decayed_attention.js";
import { checkRetention, logGammas, retain, RETENTION_KEYS, type RetentionConfig } from "./retention.js";
import {
  headsSettings,
  RETENTION_HEADS_KEYS,
  RetentionHeads,
  retentionHeadsPlan,
  type RetentionHeadsConfig,
  type RetentionHeadsSettings,
} from "./retention_heads.js";
import { MAX_POSITIONS, type FirstPosition } from "../state/rotation.js";
import { rowNorms } from "../state/row_norms.js";
import {
  expectCall,
  expectInput,
  newState,
  type SequenceState,
  type StateOptions,
  type StatePlan,
} from "../state/sequence_state.js";

/** valueDim is 2 dim, rotary `retnet` by default. */
export interface MultiScaleRetentionConfig extends RetentionHeadsConfig, RetentionConfig {}

export interface RetentionLayerOptions {
  /** From `createState`: x goes on from it, and it is moved on in place. */
  readonly state?: SequenceState | undefined;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
}

/** A layer's outputs over a state that is a plain tensor. */
export interface RetentionLayerOutputs {
  readonly out: Tensor;
  /** [batch, numHeads, headDim, valueDim / numHeads] */
  readonly state: Tensor;
}

export interface RetentionLayerInput {
  readonly state?: Tensor | undefined;
  /** Tokens before x; default 0. */
  readonly offset?: number | undefined;
  readonly residual?: Tensor | undefined;
}

/**
 * Multi-scale retention, RetNet's layer: q, k, v = split(x Wq^T), split(x Wk^T), split(x Wv^T); q and k turned by position;
 * o = retention(q, k, v); out = (silu(x Wg^T) * norm_head(o)) Wo^T. The rotation is xPos without its scaling, which the
 * decay replaces.
 *
 * x [batch, tokens, dim], f32, positions below 2^18. Parameters q_proj, k_proj [dim, dim], v_proj, g_proj [valueDim, dim],
 * o_proj [dim, valueDim] (`.weight`), no biases. Sun et al. 2023, arXiv:2307.08621, section 2.2.
 */
export class MultiScaleRetention implements Module {
  readonly config: MultiScaleRetentionConfig;
  readonly #heads: RetentionHeads;
  readonly #p: Record<string, Tensor>;
  #logDecay: Tensor | undefined;

  /** @throws ConfigError */
  constructor(config: MultiScaleRetentionConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("MultiScaleRetention", MultiScaleRetention.plan(config), parameters);
    this.config = config;
    this.#heads = new RetentionHeads(settingsOf(config), this.#p);
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: MultiScaleRetentionConfig): Plan {
    return retentionHeadsPlan(settingsOf(config));
  }

  /** Normal matrices. */
  static init(gpu: Gpu, config: MultiScaleRetentionConfig, options: InitOptions): MultiScaleRetention {
    const plan = MultiScaleRetention.plan(config);
    return new MultiScaleRetention(config, initParameters("MultiScaleRetention", gpu, plan, options));
  }

  /** The state of a decoding run, of one size however long the text. @throws ConfigError if there is a denominator */
  createState(options: StateOptions): SequenceState {
    const { denominator = "none" } = this.config;
    if (denominator !== "none")
      throw new ConfigError(
        "MultiScaleRetention",
        `denominator is "${denominator}"; it needs a whole sequence, so there is no state`,
      );
    return newState("MultiScaleRetention", this.#p, options, (batch) => this.#statePlan(batch));
  }

  #statePlan(batch: number): StatePlan {
    return retentionStatePlan(this.#heads.settings, batch);
  }

  /** x [batch, tokens, dim]: a whole sequence, or what follows the state. */
  forward(x: Tensor, options: RetentionLayerOptions = {}): Tensor {
    expectCall("MultiScaleRetention", x, this.#heads.settings.dim, options, (batch) =>
      this.#statePlan(batch),
    );
    return stepped(x, options, (input, first) => this.#run(x, input, first));
  }

  /** The same over a state that is a plain tensor, with gradients. */
  outputs(x: Tensor, input: RetentionLayerInput = {}): RetentionLayerOutputs {
    const who = "MultiScaleRetention";
    checkConfig(who, input, ["state", "offset", "residual"]);
    const { offset = 0 } = input;
    expectInteger(who, "offset", offset, 0, MAX_POSITIONS - 1);
    return this.#run(x, input, offset);
  }

  #run(x: Tensor, { state, residual }: RetentionLayerInput, first: FirstPosition): RetentionLayerOutputs {
    const who = "MultiScaleRetention";
    const { numHeads, dim } = this.#heads.settings;
    const { decay, decayNorm = false, scale } = this.config;
    const tokens = checkInput(who, x, { state, residual }, this.#heads.settings);
    return x.gpu.scope(() => {
      const logDecay = (this.#logDecay ??= x.gpu.keep(x.gpu.tensor(logGammas(decay, numHeads), [numHeads])));
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

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }

  /** Free the tables of decays and rotations. */
  dispose(): void {
    this.#heads.dispose();
    this.#logDecay?.dispose();
    this.#logDecay = undefined;
  }
}

function settingsOf(config: MultiScaleRetentionConfig): RetentionHeadsSettings {
  const who = "MultiScaleRetention";
  checkConfig(who, config, [...RETENTION_HEADS_KEYS, ...RETENTION_KEYS]);
  const settings = headsSettings(who, config, { valueDim: 2 * config.dim, rotary: "retnet" });
  checkRetention(who, config, settings.numHeads);
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

/** Run over a layer's state and move it on. */
export function stepped(
  x: Tensor,
  { state, residual }: RetentionLayerOptions,
  run: (input: RetentionLayerInput, first: FirstPosition) => RetentionLayerOutputs,
): Tensor {
  return x.gpu.scope(() => {
    const { state: tensor, position } = state?.tensors ?? {};
    const next = run({ state: tensor, residual }, position ?? 0);
    if (position) state!.update({ state: next.state, position: add(position, x.shape[1]!) });
    return next.out;
  });
}
