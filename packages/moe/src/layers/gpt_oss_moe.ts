import {
  Component,
  expectInteger,
  expectTensor,
  integer,
  number,
  schema,
  zeros,
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
import { mixtralMoe, type MoeResult } from "./mixtral_moe.js";

const { dim, hiddenDim, numExperts } = GATED_EXPERT_FIELDS;
const GPT_OSS_MOE = schema("GptOssMoe", {
  ...{ dim, hiddenDim, numExperts },
  topK: integer("Experts of a token.", { min: 1, default: 4 }),
  beta: number("Factor in the sigmoid of the gate (alpha).", { default: 1.702 }),
  limit: number("Upper bound of the gate, and bound of the other factor on both sides.", {
    min: Number.MIN_VALUE,
    default: 7,
  }),
  upOffset: number("Added to the other factor.", { default: 1 }),
});
export type GptOssMoeConfig = Config<typeof GPT_OSS_MOE>;

/** The experts of every configuration: SwiGLU with biases. */
const EXPERTS = { gluKind: "swiglu", expertBias: true } as const;

/**
 * The mixture of gpt-oss: the topK best of the logits x wRouter^T + b, weights the softmax over those; experts are
 * clamped SwiGLUs with biases, (clamp(up, -limit, limit) + upOffset) g sigmoid(beta g) with g = min(gate, limit).
 * Parameters: router.{weight,bias}, and stacked experts.{gate,up,down}_proj with their _bias; checkpoints store gate and
 * up as one matrix [experts, dim, 2 hidden] of alternating columns.
 *
 * OpenAI 2025, arXiv:2508.10925.
 */
export class GptOssMoe extends Component<typeof GPT_OSS_MOE> {
  static readonly schema = GPT_OSS_MOE;

  /** Name, shape and initial distribution of every parameter. @throws ConfigError */
  static plan(config: GptOssMoeConfig): ParameterPlan {
    const read = GPT_OSS_MOE.read(config);
    expectInteger(GPT_OSS_MOE.name, "topK", read.topK, 1, read.numExperts);
    return {
      ...gatedExpertsPlan(GPT_OSS_MOE.name, { ...read, ...EXPERTS }),
      "router.weight": routerPlan(read),
      "router.bias": zeros(read.numExperts),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: GptOssMoeConfig, parameters: Parameters) {
    super(GPT_OSS_MOE, config, GptOssMoe.plan(config), parameters);
  }

  /** The stacked experts. */
  get experts(): GatedExperts {
    return gatedExpertsOf({ ...this.config, ...EXPERTS }, this.weights);
  }

  /** x [..., tokens, dim]; returns the shape of x. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor): Tensor {
    expectTensor(`${GPT_OSS_MOE.name}.forward`, "x", x);
    return x.gpu.scope(() => this.outputs(x).out);
  }

  /** `forward` with what the router chose. @throws ShapeError, DTypeError, ConfigError */
  outputs(x: Tensor): MoeResult {
    return mixtralMoe(x, this.weights["router.weight"]!, this.experts, {
      topK: this.config.topK,
      order: "topkThenSoftmax",
      bias: this.weights["router.bias"],
    });
  }

  /** `expertKeys` of what the router chooses, [..., experts * hiddenDim]. @throws ShapeError, DTypeError, ConfigError */
  coefficients(x: Tensor): Tensor {
    expectTensor(`${GPT_OSS_MOE.name}.coefficients`, "x", x);
    return x.gpu.scope(() => {
      const { indices, weights } = this.outputs(x);
      return expertKeys(x, this.experts, indices, weights);
    });
  }
}
