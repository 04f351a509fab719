import {
  Component,
  expectInteger,
  expectTensor,
  integer,
  schema,
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
import { expectRouted, type Experts, type GatedExperts } from "../experts/expert_weights.js";
import { expertKeys } from "../experts/expert_keys.js";
import { mixExperts } from "../experts/experts.js";
import { router, type RouterOptions, type RouterResult } from "../router/router.js";

export interface MoeResult extends RouterResult {
  /** In the shape of x. */
  readonly out: Tensor;
}

/**
 * Mixture of experts without capacity: out = sum_k weights_k expert_k(x); no token is dropped, and the cost follows
 * the chosen experts alone.
 *
 * x [..., tokens, dim], wRouter [experts, dim]; float32. Jiang et al. 2024, arXiv:2401.04088.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function mixtralMoe(x: Tensor, wRouter: Tensor, experts: Experts, options: RouterOptions): MoeResult {
  expectRouted("mixtralMoe", x, wRouter, experts);
  return x.gpu.scope(() => {
    const routed = router(x, wRouter, options);
    return { out: mixExperts(x, experts, routed.indices, routed.weights), ...routed };
  });
}

const MIXTRAL_MOE = schema("MixtralMoe", {
  ...GATED_EXPERT_FIELDS,
  topK: integer("Experts of a token.", { min: 1, default: 2 }),
});
export type MixtralMoeConfig = Config<typeof MIXTRAL_MOE>;

/** `mixtralMoe` with gated experts, its weights renormalised: experts.{gate,up,down}_proj, stacked, and gate.weight. */
export class MixtralMoe extends Component<typeof MIXTRAL_MOE> {
  static readonly schema = MIXTRAL_MOE;

  /** Name, shape and initial distribution of every parameter. @throws ConfigError */
  static plan(config: MixtralMoeConfig): ParameterPlan {
    const read = MIXTRAL_MOE.read(config);
    expectInteger(MIXTRAL_MOE.name, "topK", read.topK, 1, read.numExperts);
    return { ...gatedExpertsPlan(MIXTRAL_MOE.name, read), "gate.weight": routerPlan(read) };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: MixtralMoeConfig, parameters: Parameters) {
    super(MIXTRAL_MOE, config, MixtralMoe.plan(config), parameters);
  }

  /** The stacked experts. */
  get experts(): GatedExperts {
    return gatedExpertsOf(this.config, this.weights);
  }

  /** x [..., tokens, dim]; returns the shape of x. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor): Tensor {
    expectTensor("MixtralMoe.forward", "x", x);
    return x.gpu.scope(() => this.outputs(x).out);
  }

  /** `forward` with what the router chose. @throws ShapeError, DTypeError, ConfigError */
  outputs(x: Tensor): MoeResult {
    const { topK } = this.config;
    return mixtralMoe(x, this.weights["gate.weight"]!, this.experts, { topK, renormalize: true });
  }

  /** `expertKeys` of what the router chooses, [..., experts * hiddenDim]. @throws ShapeError, DTypeError, ConfigError */
  coefficients(x: Tensor): Tensor {
    expectTensor(`${MIXTRAL_MOE.name}.coefficients`, "x", x);
    return x.gpu.scope(() => {
      const { indices, weights } = this.outputs(x);
      return expertKeys(x, this.experts, indices, weights);
    });
  }
}
