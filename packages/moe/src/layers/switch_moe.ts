import { checkConfig, linear, softmax, topk, type Gpu, type Module, type Tensor } from "@x/kernels";
import type { GroupBy } from "../router/choices.js";
import { CAPACITY_KEYS, expertCapacity, type CapacityOptions } from "../router/expert_capacity.js";
import {
  expertParameters,
  initRouted,
  takeRouted,
  type ExpertsConfig,
  type InitOptions,
} from "../experts/expert_parameters.js";
import { expectRouter, expertCount, type Experts } from "../experts/expert_weights.js";
import { mixExperts } from "../experts/experts.js";
import { loadBalanceLoss } from "../losses/load_balance_loss.js";
import { routerZLoss } from "../losses/router_z_loss.js";

export interface SwitchMoeOptions extends CapacityOptions {
  /** Whose tokens share the experts' slots, and the loss's means; default "sequence". */
  readonly groupBy?: GroupBy;
  /** Factor of the balancing loss; default 1. */
  readonly alpha?: number;
}

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
 * x [batch, seq, dim], wRouter [experts, dim]. Fedus et al. 2021, arXiv:2101.03961, section 2.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function switchMoe(
  x: Tensor,
  wRouter: Tensor,
  experts: Experts,
  options: SwitchMoeOptions,
): SwitchMoeResult {
  const who = "switchMoe";
  checkConfig(who, options, [...CAPACITY_KEYS, "groupBy", "alpha"]);
  const { groupBy = "sequence", alpha = 1, ...capacity } = options;
  expectRouter(who, x, wRouter, expertCount(who, experts, x.shape.at(-1) ?? 0));
  return x.gpu.scope(() => {
    const logits = linear(x, wRouter);
    const probs = softmax(logits);
    const best = topk(probs, 1);
    const placed = expertCapacity(best.indices, best.values, {
      ...capacity,
      groupBy,
      numExperts: wRouter.shape[0]!,
    });
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

export interface SwitchMoeConfig extends ExpertsConfig, SwitchMoeOptions {}

/** `switchMoe` with its parameters: router.classifier.weight, experts.{wi,wo} (or gated experts) stacked. */
export class SwitchMoe implements Module {
  readonly options: SwitchMoeOptions;
  readonly #router: Tensor;
  readonly #experts: Experts;

  constructor(options: SwitchMoeOptions, router: Tensor, experts: Experts) {
    this.options = options;
    this.#router = router;
    this.#experts = experts;
  }

  static init(gpu: Gpu, config: SwitchMoeConfig, init: InitOptions): SwitchMoe {
    return new SwitchMoe(
      ...initRouted("SwitchMoe", gpu, config, [...CAPACITY_KEYS, "groupBy", "alpha"], init),
    );
  }

  static fromParameters(
    config: Partial<ExpertsConfig> & SwitchMoeOptions,
    parameters: Readonly<Record<string, Tensor>>,
  ): SwitchMoe {
    return new SwitchMoe(...takeRouted("SwitchMoe", config, parameters, "router.classifier.weight"));
  }

  forward(x: Tensor): SwitchMoeResult {
    return switchMoe(x, this.#router, this.#experts, this.options);
  }

  parameters(): Record<string, Tensor> {
    return { "router.classifier.weight": this.#router, ...expertParameters(this.#experts) };
  }
}
