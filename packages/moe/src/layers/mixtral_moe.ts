import { checkConfig, expectInteger, takeParameter, type Gpu, type Module, type Tensor } from "@x/kernels";
import { drawer, initExperts, type InitOptions } from "../experts/expert_parameters.js";
import type { Experts, GatedExperts } from "../experts/expert_weights.js";
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
 * x [..., dim], wRouter [experts, dim]. Jiang et al. 2024, arXiv:2401.04088.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function mixtralMoe(x: Tensor, wRouter: Tensor, experts: Experts, options: RouterOptions): MoeResult {
  return x.gpu.scope(() => {
    const routed = router(x, wRouter, options);
    return { out: mixExperts(x, experts, routed.indices, routed.weights), ...routed };
  });
}

export interface MixtralMoeConfig {
  readonly dim: number;
  readonly hiddenDim: number;
  readonly numExperts: number;
  readonly topK: number;
}

/** `mixtralMoe` with SwiGLU experts; parameters are stacked: gate.weight, experts.{gate,up,down}_proj. */
export class MixtralMoe implements Module {
  readonly topK: number;
  readonly #router: Tensor;
  readonly #experts: GatedExperts;

  constructor(config: { readonly topK: number }, router: Tensor, experts: GatedExperts) {
    this.topK = config.topK;
    this.#router = router;
    this.#experts = experts;
  }

  static init(gpu: Gpu, config: MixtralMoeConfig, init: InitOptions): MixtralMoe {
    const who = "MixtralMoe";
    checkConfig(who, config, ["dim", "hiddenDim", "numExperts", "topK"]);
    const { dim, hiddenDim, numExperts, topK } = config;
    for (const [name, value] of Object.entries({ dim, hiddenDim, numExperts }))
      expectInteger(who, name, value, 1);
    expectInteger(who, "topK", topK, 1, numExperts);
    const draw = drawer(who, gpu, init);
    const experts = initExperts(who, { dim, hiddenDim, numExperts, expertKind: "glu" }, draw, init);
    return new MixtralMoe(config, draw([numExperts, dim], init.std ?? 0.02), experts as GatedExperts);
  }

  static fromParameters(
    config: { readonly topK: number },
    parameters: Readonly<Record<string, Tensor>>,
  ): MixtralMoe {
    const take = (name: string): Tensor => takeParameter("MixtralMoe", parameters, name);
    return new MixtralMoe(config, take("gate.weight"), {
      kind: "glu",
      wGate: take("experts.gate_proj"),
      wUp: take("experts.up_proj"),
      wDown: take("experts.down_proj"),
    });
  }

  forward(x: Tensor): MoeResult {
    return mixtralMoe(x, this.#router, this.#experts, { topK: this.topK, renormalize: true });
  }

  parameters(): Record<string, Tensor> {
    const { wGate, wUp, wDown } = this.#experts;
    return {
      "gate.weight": this.#router,
      "experts.gate_proj": wGate,
      "experts.up_proj": wUp,
      "experts.down_proj": wDown,
    };
  }
}
