import {
  boolean,
  Component,
  expectTensor,
  linear,
  number,
  schema,
  softmax,
  topk,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { EXPERT_FIELDS, expertsOf, expertsPlan, routerPlan } from "../experts/expert_parameters.js";
import { expectRouted, type Experts } from "../experts/expert_weights.js";
import { expertKeys } from "../experts/expert_keys.js";
import { mixExperts } from "../experts/experts.js";
import { loadBalanceLoss } from "../losses/load_balance_loss.js";
import { routerZLoss } from "../losses/router_z_loss.js";
import { groupByField } from "../router/choices.js";
import {
  CAPACITY_FIELDS,
  expertCapacity,
  LAYER_CAPACITY_FIELDS,
  layerCapacity,
} from "../router/expert_capacity.js";

const ALPHA = number("Factor of the balancing loss.", { default: 1 });
const OPTIONS = schema("switchMoe", { ...CAPACITY_FIELDS, groupBy: groupByField("sequence"), alpha: ALPHA });
const SWITCH_MOE = schema("SwitchMoe", { ...EXPERT_FIELDS, ...LAYER_CAPACITY_FIELDS, alpha: ALPHA });
const CALL = schema("SwitchMoe.forward", {
  training: boolean("Experts have the capacity of the configuration; otherwise no token is dropped.", {
    default: false,
  }),
});
export type SwitchMoeOptions = Config<typeof OPTIONS>;
export type SwitchMoeConfig = Config<typeof SWITCH_MOE>;
export type SwitchMoeForwardOptions = Config<typeof CALL>;

export interface SwitchMoeResult {
  /** In the shape of x; 0 for a dropped token. */
  readonly out: Tensor;
  /** i32 [batch, seq] */
  readonly indices: Tensor;
  readonly kept: Tensor;
  /** [batch, seq, experts] */
  readonly logits: Tensor;
  readonly probs: Tensor;
  /** [batch, seq]: the chosen expert's probability, 0 if dropped. */
  readonly weights: Tensor;
  /** [1]: `loadBalanceLoss` "switch", and `routerZLoss` with alpha 1; not added to `out`. */
  readonly auxLoss: Tensor;
  readonly zLoss: Tensor;
}

/**
 * Switch layer: each token goes to its best expert, out = p expert(x) with p the expert's softmax probability; a token
 * that finds its expert full is dropped, and only the residual connection carries it.
 *
 * x [batch, seq, dim], wRouter [experts, dim]; float32. Fedus et al. 2021, arXiv:2101.03961, section 2.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function switchMoe(
  x: Tensor,
  wRouter: Tensor,
  experts: Experts,
  options: SwitchMoeOptions,
): SwitchMoeResult {
  const numExperts = expectRouted(OPTIONS.name, x, wRouter, experts);
  const { groupBy, alpha, ...capacity } = OPTIONS.read(options);
  return x.gpu.scope(() => {
    const logits = linear(x, wRouter);
    const probs = softmax(logits);
    const best = topk(probs, 1);
    const placed = expertCapacity(best.indices, best.values, { ...capacity, groupBy, numExperts });
    const each = x.shape.slice(0, -1);
    return {
      out: mixExperts(x, experts, placed.placed, placed.weights),
      indices: best.indices.reshape(each),
      kept: placed.kept.reshape(each),
      weights: placed.weights.reshape(each),
      logits,
      probs,
      auxLoss: loadBalanceLoss(logits, { kind: "switch", alpha, groupBy }).loss,
      zLoss: routerZLoss(logits),
    };
  });
}

/** `switchMoe` with its parameters: stacked experts and router.classifier.weight. */
export class SwitchMoe extends Component<typeof SWITCH_MOE> {
  static readonly schema = SWITCH_MOE;

  /** Name, shape and initial distribution of every parameter. @throws ConfigError */
  static plan(config: SwitchMoeConfig): ParameterPlan {
    const read = SWITCH_MOE.read(config);
    return { ...expertsPlan(SWITCH_MOE.name, read), "router.classifier.weight": routerPlan(read) };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: SwitchMoeConfig, parameters: Parameters) {
    super(SWITCH_MOE, config, SwitchMoe.plan(config), parameters);
  }

  /** The stacked experts. */
  get experts(): Experts {
    return expertsOf(this.config, this.weights);
  }

  /** x [batch, seq, dim]; returns the shape of x. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor, options: SwitchMoeForwardOptions = {}): Tensor {
    expectTensor(CALL.name, "x", x);
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /** `forward` with what the router chose and the losses. @throws ShapeError, DTypeError, ConfigError */
  outputs(x: Tensor, options: SwitchMoeForwardOptions = {}): SwitchMoeResult {
    expectTensor(CALL.name, "x", x);
    const { training } = CALL.read(options);
    const { alpha, groupBy, dim } = this.config;
    return switchMoe(x, this.weights["router.classifier.weight"]!, this.experts, {
      ...(training ? layerCapacity(this.config) : { capacity: x.size / dim, groupBy }),
      alpha,
    });
  }

  /** `expertKeys` of what the router chooses outside training, [..., experts * hiddenDim]. @throws ShapeError, DTypeError, ConfigError */
  coefficients(x: Tensor): Tensor {
    expectTensor(`${SWITCH_MOE.name}.coefficients`, "x", x);
    return x.gpu.scope(() => {
      const { indices, weights } = this.outputs(x);
      const each = [...indices.shape, 1];
      return expertKeys(x, this.experts, indices.reshape(each), weights.reshape(each));
    });
  }
}
