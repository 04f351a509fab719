import {
  cast,
  checkConfig,
  expectInteger,
  takeParameter,
  type GluKind,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { auxFreeBias } from "../router/aux_free_bias.js";
import { countChoices } from "../router/choices.js";
import {
  deepseekMoe,
  type DeepSeekMoeOptions,
  type DeepSeekMoeResult,
  type SharedExperts,
} from "./deepseek_moe.js";
import {
  drawer,
  expertParameters,
  initExperts,
  takeExperts,
  type InitOptions,
} from "../experts/expert_parameters.js";
import type { GatedExperts } from "../experts/expert_weights.js";

export interface DeepSeekMoeConfig extends Omit<DeepSeekMoeOptions, "bias"> {
  readonly dim: number;
  /** Width of one routed expert. */
  readonly hiddenDim: number;
  readonly numExperts: number;
  /** Shared experts, together one gated layer of width numShared * hiddenDim; default 0. */
  readonly numShared?: number;
  /** Default "swiglu". */
  readonly gluKind?: GluKind;
  /** Keep a choosing bias that `updateBias` balances (V3). */
  readonly correctionBias?: boolean;
}

type LayerOptions = Omit<DeepSeekMoeOptions, "bias">;

interface LayerWeights {
  readonly router: Tensor;
  readonly experts: GatedExperts;
  readonly shared: SharedExperts | undefined;
  readonly bias: Tensor | undefined;
}

const OPTIONS = [
  "topK",
  "scoreFunction",
  "numGroups",
  "topkGroups",
  "groupScore",
  "normTopkProb",
  "routedScalingFactor",
] as const;
const SHAPES = ["dim", "hiddenDim", "numExperts", "numShared", "gluKind", "correctionBias"];

const optionsOf = (config: Partial<DeepSeekMoeConfig> & LayerOptions): LayerOptions =>
  Object.fromEntries(
    Object.entries(config).filter(([key]) => (OPTIONS as readonly string[]).includes(key)),
  ) as unknown as LayerOptions;

/**
 * `deepseekMoe` with its weights under DeepSeek's names: gate.weight, experts.{gate,up,down}_proj stacked (read also
 * one by one, as checkpoints have them), shared_experts.{gate,up,down}_proj.weight, and the buffer
 * gate.e_score_correction_bias.
 */
export class DeepSeekMoe implements Module {
  readonly options: LayerOptions;
  readonly #weights: LayerWeights;

  constructor(options: LayerOptions, weights: LayerWeights) {
    this.options = options;
    this.#weights = weights;
  }

  static init(gpu: Gpu, config: DeepSeekMoeConfig, init: InitOptions): DeepSeekMoe {
    const who = "DeepSeekMoe";
    checkConfig(who, config, [...OPTIONS, ...SHAPES]);
    const { dim, hiddenDim, numExperts, numShared = 0 } = config;
    expectInteger(who, "numShared", numShared, 0);
    const draw = drawer(who, gpu, init);
    const { std = 0.02, outStd = std } = init;
    const experts = initExperts(
      who,
      {
        dim,
        hiddenDim,
        numExperts,
        expertKind: "glu",
        ...(config.gluKind ? { gluKind: config.gluKind } : {}),
      },
      draw,
      init,
    ) as GatedExperts;
    const router = draw([numExperts, dim], std);
    const width = numShared * hiddenDim;
    return new DeepSeekMoe(optionsOf(config), {
      router,
      experts,
      shared:
        width > 0
          ? {
              wGate: draw([width, dim], std),
              wUp: draw([width, dim], std),
              wDown: draw([dim, width], outStd),
            }
          : undefined,
      bias: config.correctionBias ? gpu.keep(gpu.zeros([numExperts])) : undefined,
    });
  }

  static fromParameters(
    config: Partial<DeepSeekMoeConfig> & LayerOptions,
    parameters: Readonly<Record<string, Tensor>>,
  ): DeepSeekMoe {
    const take = (name: string): Tensor => takeParameter("DeepSeekMoe", parameters, name);
    const shared = (part: string): Tensor => take(`shared_experts.${part}.weight`);
    return new DeepSeekMoe(optionsOf(config), {
      router: take("gate.weight"),
      experts: takeExperts("DeepSeekMoe", parameters, {
        expertKind: "glu",
        ...(config.gluKind ? { gluKind: config.gluKind } : {}),
      }) as GatedExperts,
      shared:
        parameters["shared_experts.gate_proj.weight"] === undefined && !config.numShared
          ? undefined
          : { wGate: shared("gate_proj"), wUp: shared("up_proj"), wDown: shared("down_proj") },
      bias: config.correctionBias
        ? take("gate.e_score_correction_bias")
        : parameters["gate.e_score_correction_bias"],
    });
  }

  forward(x: Tensor): DeepSeekMoeResult {
    const { router, experts, shared, bias } = this.#weights;
    return deepseekMoe(x, router, experts, shared, { ...this.options, bias });
  }

  /** After a training step: move the choosing bias towards the experts that `indices` (of `forward`) left short. */
  updateBias(indices: Tensor, options: { readonly updateSpeed?: number } = {}): void {
    const { bias, router } = this.#weights;
    if (!bias) return;
    const { gpu } = bias;
    gpu.scope(() => {
      const experts = router.shape[0]!;
      const counts = cast(countChoices(indices, { groups: 1, experts }), "i32").reshape([experts]);
      gpu.copy(auxFreeBias(bias, counts, options), bias);
    });
  }

  parameters(): Record<string, Tensor> {
    const { router, experts, shared } = this.#weights;
    return {
      "gate.weight": router,
      ...expertParameters(experts),
      ...(shared
        ? {
            "shared_experts.gate_proj.weight": shared.wGate,
            "shared_experts.up_proj.weight": shared.wUp,
            "shared_experts.down_proj.weight": shared.wDown,
          }
        : {}),
    };
  }

  /** What training does not change by gradients. */
  buffers(): Record<string, Tensor> {
    const { bias } = this.#weights;
    return bias ? { "gate.e_score_correction_bias": bias } : {};
  }
}
