import {
  boolean,
  Component,
  concat,
  expectInteger,
  expectTensor,
  integer,
  matrix,
  MATRIX_STD,
  schema,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { expertKeys } from "../experts/expert_keys.js";
import {
  GATED_EXPERT_FIELDS,
  gatedExpertsOf,
  gatedExpertsPlan,
  routerPlan,
} from "../experts/expert_parameters.js";
import type { GatedExperts } from "../experts/expert_weights.js";
import { sharedUnits, type SharedExperts } from "../experts/shared_experts.js";
import { deepseekMoe, type DeepSeekMoeResult } from "./deepseek_moe.js";

const QWEN2_MOE = schema("Qwen2Moe", {
  ...GATED_EXPERT_FIELDS,
  topK: integer("Routed experts of a token.", { min: 1, default: 2 }),
  normTopkProb: boolean("Divide the weights by their sum (Qwen3-MoE, Qwen3-Next); Qwen2-MoE does not.", {
    default: true,
  }),
  sharedDim: integer("Hidden width of the shared expert; 0: there is none (Qwen3-MoE).", {
    min: 0,
    default: 0,
  }),
});
export type Qwen2MoeConfig = Config<typeof QWEN2_MOE>;

/**
 * The mixtures of Qwen2-MoE, Qwen3-MoE and Qwen3-Next: softmax over all experts, the topK best, and with `sharedDim` a
 * shared expert times a gate of its own: out = sum_k weights_k expert_k(x) + sigmoid(x g^T) shared(x). Parameters:
 * gate.weight, stacked experts.{gate,up,down}_proj, shared_expert.{gate,up,down}_proj.weight and
 * shared_expert_gate.weight [1, dim].
 *
 * `deepseekMoe` is the function. Yang et al. 2024, arXiv:2407.10671; Qwen3, arXiv:2505.09388.
 */
export class Qwen2Moe extends Component<typeof QWEN2_MOE> {
  static readonly schema = QWEN2_MOE;

  /** Name, shape and initial distribution of every parameter. @throws ConfigError */
  static plan(config: Qwen2MoeConfig): ParameterPlan {
    const read = QWEN2_MOE.read(config);
    const { dim, sharedDim } = read;
    expectInteger(QWEN2_MOE.name, "topK", read.topK, 1, read.numExperts);
    return {
      ...gatedExpertsPlan(QWEN2_MOE.name, read),
      "gate.weight": routerPlan(read),
      ...(sharedDim > 0
        ? {
            "shared_expert.gate_proj.weight": matrix(sharedDim, dim, "value"),
            "shared_expert.up_proj.weight": matrix(sharedDim, dim, "value"),
            "shared_expert.down_proj.weight": matrix(dim, sharedDim, "output"),
            "shared_expert_gate.weight": { shape: [1, dim], init: { std: MATRIX_STD } },
          }
        : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: Qwen2MoeConfig, parameters: Parameters) {
    super(QWEN2_MOE, config, Qwen2Moe.plan(config), parameters);
  }

  /** The stacked routed experts. */
  get experts(): GatedExperts {
    return gatedExpertsOf(this.config, this.weights);
  }

  /** The shared expert and its gate, if there is one. */
  get shared(): SharedExperts | undefined {
    const of = (part: string): Tensor => this.weights[`shared_expert.${part}.weight`]!;
    const gate = this.weights["shared_expert_gate.weight"];
    return gate ? { wGate: of("gate_proj"), wUp: of("up_proj"), wDown: of("down_proj"), gate } : undefined;
  }

  /** x [..., tokens, dim]; returns the shape of x. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor): Tensor {
    expectTensor(`${QWEN2_MOE.name}.forward`, "x", x);
    return x.gpu.scope(() => this.outputs(x).out);
  }

  /** `forward` with what the router chose. @throws ShapeError, DTypeError, ConfigError */
  outputs(x: Tensor): DeepSeekMoeResult {
    const { topK, normTopkProb } = this.config;
    return deepseekMoe(x, this.weights["gate.weight"]!, this.experts, this.shared, { topK, normTopkProb });
  }

  /**
   * The coefficients of the columns of the experts' last matrices, those of the shared expert last: `expertKeys` of what
   * the router chooses, [..., experts * hiddenDim + sharedDim].
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  coefficients(x: Tensor): Tensor {
    expectTensor(`${QWEN2_MOE.name}.coefficients`, "x", x);
    return x.gpu.scope(() => {
      const { indices, weights } = this.outputs(x);
      const routed = expertKeys(x, this.experts, indices, weights);
      return this.shared
        ? concat([routed, sharedUnits(x, this.shared, this.config).units], x.rank - 1)
        : routed;
    });
  }
}
