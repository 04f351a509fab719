import {
  boolean,
  cast,
  Component,
  concat,
  ConfigError,
  expectTensor,
  integer,
  matrix,
  schema,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import {
  GATED_EXPERT_FIELDS,
  gatedExpertsOf,
  gatedExpertsPlan,
  routerPlan,
} from "../experts/expert_parameters.js";
import { expertKeys } from "../experts/expert_keys.js";
import type { GatedExperts } from "../experts/expert_weights.js";
import { sharedUnits, type SharedExperts } from "../experts/shared_experts.js";
import { auxFreeBias, type AuxFreeBiasOptions } from "../router/aux_free_bias.js";
import { countChoices } from "../router/choices.js";
import { DEEPSEEK_FIELDS, groupLimit } from "../router/deepseek_router.js";
import { expectGroups } from "../router/group_limited.js";
import { deepseekMoe, type DeepSeekMoeResult } from "./deepseek_moe.js";

const DEEPSEEK_MOE = schema("DeepSeekMoe", {
  ...GATED_EXPERT_FIELDS,
  topK: integer("Routed experts of a token.", { min: 1, default: 2 }),
  numShared: integer("Shared experts, together one gated layer of width numShared * hiddenDim.", {
    min: 0,
    default: 0,
  }),
  ...DEEPSEEK_FIELDS,
  correctionBias: boolean("Keep a choosing bias that `updateBias` balances (V3).", { default: false }),
});
export type DeepSeekMoeConfig = Config<typeof DEEPSEEK_MOE>;

const BIAS = "gate.e_score_correction_bias";

/**
 * `deepseekMoe` with its weights under DeepSeek's names: experts.{gate,up,down}_proj stacked (`stackExperts` makes them
 * of a checkpoint's), gate.weight, shared_experts.{gate,up,down}_proj.weight, and the buffer
 * gate.e_score_correction_bias.
 */
export class DeepSeekMoe extends Component<typeof DEEPSEEK_MOE> {
  static readonly schema = DEEPSEEK_MOE;

  /** Name, shape and initial distribution of every parameter and buffer. @throws ConfigError */
  static plan(config: DeepSeekMoeConfig): ParameterPlan {
    const read = DEEPSEEK_MOE.read(config);
    const { dim, numExperts, topK } = read;
    expectGroups(DEEPSEEK_MOE.name, numExperts, topK, groupLimit(read));
    const width = read.numShared * read.hiddenDim;
    return {
      ...gatedExpertsPlan(DEEPSEEK_MOE.name, read),
      "gate.weight": routerPlan(read),
      ...(width > 0
        ? {
            "shared_experts.gate_proj.weight": matrix(width, dim, "value"),
            "shared_experts.up_proj.weight": matrix(width, dim, "value"),
            "shared_experts.down_proj.weight": matrix(dim, width, "output"),
          }
        : {}),
      ...(read.correctionBias ? { [BIAS]: { ...zeros(numExperts), buffer: true } } : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: DeepSeekMoeConfig, parameters: Parameters) {
    super(DEEPSEEK_MOE, config, DeepSeekMoe.plan(config), parameters);
  }

  /** The stacked routed experts. */
  get experts(): GatedExperts {
    return gatedExpertsOf(this.config, this.weights);
  }

  /** The shared experts, if there are any. */
  get shared(): SharedExperts | undefined {
    const of = (part: string): Tensor => this.weights[`shared_experts.${part}.weight`]!;
    return this.config.numShared > 0
      ? { wGate: of("gate_proj"), wUp: of("up_proj"), wDown: of("down_proj") }
      : undefined;
  }

  /** x [..., tokens, dim]; returns the shape of x. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor): Tensor {
    expectTensor("DeepSeekMoe.forward", "x", x);
    return x.gpu.scope(() => this.outputs(x).out);
  }

  /** `forward` with what the router chose. @throws ShapeError, DTypeError, ConfigError */
  outputs(x: Tensor): DeepSeekMoeResult {
    const { topK, scoreFunction, numGroups, topkGroups, groupScore, normTopkProb, routedScalingFactor } =
      this.config;
    return deepseekMoe(x, this.weights["gate.weight"]!, this.experts, this.shared, {
      ...{ topK, scoreFunction, numGroups, topkGroups, groupScore, normTopkProb, routedScalingFactor },
      bias: this.weights[BIAS],
    });
  }

  /**
   * The coefficients of the columns of the experts' last matrices, those of the shared experts last: `expertKeys` of
   * what the router chooses, [..., (experts + numShared) * hiddenDim].
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  coefficients(x: Tensor): Tensor {
    expectTensor(`${DEEPSEEK_MOE.name}.coefficients`, "x", x);
    return x.gpu.scope(() => {
      const { indices, weights } = this.outputs(x);
      const routed = expertKeys(x, this.experts, indices, weights);
      return this.shared
        ? concat([routed, sharedUnits(x, this.shared, this.config).units], x.rank - 1)
        : routed;
    });
  }

  /**
   * After a training step: move the choosing bias towards the experts that `indices` (of `outputs`) left short.
   *
   * indices i32 [..., topK].
   *
   * @throws DTypeError, and ConfigError where the configuration has no correctionBias
   */
  updateBias(indices: Tensor, options: AuxFreeBiasOptions = {}): void {
    const caller = "DeepSeekMoe.updateBias";
    expectTensor(caller, "indices", indices);
    const bias = this.weights[BIAS];
    if (!bias)
      throw new ConfigError(caller, "the layer has no choosing bias; its configuration needs correctionBias");
    const { gpu } = bias;
    const { numExperts } = this.config;
    gpu.scope(() => {
      const counts = countChoices(indices, { groups: 1, experts: numExperts });
      gpu.copy(auxFreeBias(bias, cast(counts, "i32").reshape([numExperts]), options), bias);
    });
  }
}
