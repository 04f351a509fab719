import {
  checkConfig,
  expectInteger,
  randomNormal,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import type { Experts } from "./expert_weights.js";
import { mixExperts } from "./experts.js";
import { router, type RouterOptions, type RouterResult } from "./router.js";

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
  readonly #experts: Extract<Experts, { kind: "glu" }>;

  constructor(config: { readonly topK: number }, router: Tensor, experts: Extract<Experts, { kind: "glu" }>) {
    this.topK = config.topK;
    this.#router = router;
    this.#experts = experts;
  }

  static init(
    gpu: Gpu,
    config: MixtralMoeConfig,
    {
      seed,
      stream = 0,
      std = 0.02,
      outStd = std,
    }: { seed: number; stream?: number; std?: number; outStd?: number },
  ): MixtralMoe {
    const who = "MixtralMoe";
    checkConfig(who, config, ["dim", "hiddenDim", "numExperts", "topK"]);
    const { dim, hiddenDim, numExperts, topK } = config;
    for (const [name, value] of Object.entries({ dim, hiddenDim, numExperts }))
      expectInteger(who, name, value, 1);
    expectInteger(who, "topK", topK, 1, numExperts);
    const normal = (shape: readonly number[], at: number, deviation: number): Tensor =>
      gpu.keep(randomNormal(gpu, shape, { seed, stream: stream + at, std: deviation }));
    return new MixtralMoe(config, normal([numExperts, dim], 3, std), {
      kind: "glu",
      wGate: normal([numExperts, hiddenDim, dim], 0, std),
      wUp: normal([numExperts, hiddenDim, dim], 1, std),
      wDown: normal([numExperts, dim, hiddenDim], 2, outStd),
    });
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
