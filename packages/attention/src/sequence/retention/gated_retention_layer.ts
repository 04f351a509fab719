import {
  checkConfig,
  e,
  elementwise,
  expectInteger,
  expectNumber,
  linear,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { checkParameters, initParameters, matrix, type InitOptions, type Plan } from "../../parameters.js";
import { chunkOf, decayedAttention, type SequenceForm } from "../decay/decayed_attention.js";
import {
  checkInput,
  retentionStatePlan,
  stepped,
  type RetentionLayerInput,
  type RetentionLayerOptions,
  type RetentionLayerOutputs,
} from "./multi_scale_retention.js";
import {
  headsSettings,
  RETENTION_HEADS_KEYS,
  RetentionHeads,
  retentionHeadsPlan,
  type RetentionHeadsConfig,
  type RetentionHeadsSettings,
} from "./retention_heads.js";
import { MAX_POSITIONS, type FirstPosition } from "../state/rotation.js";
import {
  expectCall,
  newState,
  type SequenceState,
  type StateOptions,
  type StatePlan,
} from "../state/sequence_state.js";

/** valueDim is dim, rotary `rope` by default. */
export interface GatedRetentionLayerConfig extends RetentionHeadsConfig, SequenceForm {
  /** Factor of k; default headDim^-0.5. */
  readonly scale?: number | undefined;
  /** Divides the log of the decay; default 16. */
  readonly gateLogitNormalizer?: number | undefined;
}

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
export class GatedRetention implements Module {
  readonly config: GatedRetentionLayerConfig;
  readonly #heads: RetentionHeads;
  readonly #p: Record<string, Tensor>;

  /** @throws ConfigError */
  constructor(config: GatedRetentionLayerConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("GatedRetention", GatedRetention.plan(config), parameters);
    this.config = config;
    this.#heads = new RetentionHeads(settingsOf(config), this.#p);
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: GatedRetentionLayerConfig): Plan {
    const settings = settingsOf(config);
    return { ...retentionHeadsPlan(settings), "gt_proj.weight": matrix(settings.numHeads, settings.dim) };
  }

  /** Normal matrices. */
  static init(gpu: Gpu, config: GatedRetentionLayerConfig, options: InitOptions): GatedRetention {
    const plan = GatedRetention.plan(config);
    return new GatedRetention(config, initParameters("GatedRetention", gpu, plan, options));
  }

  /** The state of a decoding run, of one size however long the text. */
  createState(options: StateOptions): SequenceState {
    return newState("GatedRetention", this.#p, options, (batch) => this.#statePlan(batch));
  }

  #statePlan(batch: number): StatePlan {
    return retentionStatePlan(this.#heads.settings, batch);
  }

  /** x [batch, tokens, dim]: a whole sequence, or what follows the state. */
  forward(x: Tensor, options: RetentionLayerOptions = {}): Tensor {
    expectCall("GatedRetention", x, this.#heads.settings.dim, options, (batch) => this.#statePlan(batch));
    return stepped(x, options, (input, first) => this.#run(x, input, first));
  }

  /** The same over a state that is a plain tensor, with gradients. */
  outputs(x: Tensor, input: RetentionLayerInput = {}): RetentionLayerOutputs {
    const who = "GatedRetention";
    checkConfig(who, input, ["state", "offset", "residual"]);
    const { offset = 0 } = input;
    expectInteger(who, "offset", offset, 0, MAX_POSITIONS - 1);
    return this.#run(x, input, offset);
  }

  #run(x: Tensor, { state, residual }: RetentionLayerInput, first: FirstPosition): RetentionLayerOutputs {
    const who = "GatedRetention";
    const { numHeads, dim } = this.#heads.settings;
    const { scale, gateLogitNormalizer = 16 } = this.config;
    const tokens = checkInput(who, x, { state, residual }, this.#heads.settings);
    return x.gpu.scope(() => {
      const { q, k, v } = this.#heads.project(x, first);
      const logDecay = logSigmoid(linear(x, this.#p["gt_proj.weight"]!), 1 / gateLogitNormalizer);
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

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }

  /** Free the tables of rotations. */
  dispose(): void {
    this.#heads.dispose();
  }
}

function settingsOf(config: GatedRetentionLayerConfig): RetentionHeadsSettings {
  const who = "GatedRetention";
  checkConfig(who, config, [...RETENTION_HEADS_KEYS, "form", "chunkSize", "scale", "gateLogitNormalizer"]);
  const { scale, gateLogitNormalizer = 16 } = config;
  const settings = headsSettings(who, config, { valueDim: config.dim, rotary: "rope" });
  chunkOf(who, config, 1);
  if (scale !== undefined) expectNumber(who, "scale", scale);
  expectNumber(who, "gateLogitNormalizer", gateLogitNormalizer, Number.MIN_VALUE);
  return settings;
}
