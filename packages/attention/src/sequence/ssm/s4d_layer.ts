import {
  checkConfig,
  expectInteger,
  expectNumber,
  expectOneOf,
  randomNormal,
  randomUniform,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import {
  checkParameters,
  initParameters,
  matrix,
  zeros,
  type InitOptions,
  type Plan,
} from "../../parameters.js";
import { FEW } from "./channel_model.js";
import { s4d } from "./s4d.js";
import {
  expectCall,
  newState,
  type SequenceOptions,
  type SequenceState,
  type StateOptions,
  type StatePlan,
} from "../state/sequence_state.js";

export interface S4dConfig {
  readonly dim: number;
  /** States of a channel that are kept, one of each pair of conjugates. */
  readonly stateSize: number;
  /** Default "zoh". */
  readonly discretization?: "zoh" | "bilinear";
  /** Default "glu". */
  readonly outputBlock?: "none" | "glu";
  /** Steps at the beginning, log-uniform; default 0.001 to 0.1. */
  readonly dtMin?: number;
  readonly dtMax?: number;
}

/**
 * `s4d` as a layer: parameters log_dt [dim], log_A_real, A_imag [dim, stateSize], C [dim, stateSize, 2], D [dim], and
 * with the output block output_linear.weight [2 dim, dim], output_linear.bias [2 dim].
 */
export class S4d implements Module {
  readonly config: S4dConfig;
  readonly #p: Record<string, Tensor>;

  /** @throws ConfigError */
  constructor(config: S4dConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("S4d", S4d.plan(config), parameters);
    this.config = config;
  }

  /**
   * Names, shapes and beginnings of the parameters: S4D-Lin, A_n = -1/2 + i pi n, steps log-uniform, C complex normal.
   *
   * @throws ConfigError
   */
  static plan(config: S4dConfig): Plan {
    const who = "S4d";
    checkConfig(who, config, ["dim", "stateSize", "discretization", "outputBlock", "dtMin", "dtMax"]);
    const { dim, stateSize, discretization = "zoh", outputBlock = "glu" } = config;
    expectInteger(who, "dim", dim, 1);
    expectInteger(who, "stateSize", stateSize, 1);
    expectOneOf(who, "discretization", discretization, ["zoh", "bilinear"]);
    expectOneOf(who, "outputBlock", outputBlock, ["none", "glu"]);
    return {
      ...s4dPlan(who, dim, config),
      ...(outputBlock === "glu"
        ? { "output_linear.weight": matrix(2 * dim, dim), "output_linear.bias": zeros(2 * dim) }
        : {}),
    };
  }

  static init(gpu: Gpu, config: S4dConfig, options: InitOptions): S4d {
    return new S4d(config, initParameters("S4d", gpu, S4d.plan(config), options));
  }

  /** The state of a decoding run, which `forward` moves on. */
  createState(gpu: Gpu, options: StateOptions): SequenceState {
    return newState("S4d", gpu, options, (batch) => this.#statePlan(batch));
  }

  #statePlan(batch: number): StatePlan {
    const { dim, stateSize } = this.config;
    return { state: { shape: [batch, dim, stateSize, 2] } };
  }

  /** x [batch, seq, dim]: a whole sequence, or what follows the state. */
  forward(x: Tensor, options: SequenceOptions = {}): Tensor {
    expectCall("S4d", x, this.config.dim, options, (batch) => this.#statePlan(batch));
    const { state, residual } = options;
    const { discretization = "zoh", outputBlock = "glu" } = this.config;
    const p = this.#p;
    return x.gpu.scope(() => {
      const next = s4d(
        x,
        {
          logDt: p["log_dt"]!,
          logAReal: p["log_A_real"]!,
          aImag: p["A_imag"]!,
          c: p["C"]!,
          dSkip: p["D"]!,
          wOut: p["output_linear.weight"],
          bOut: p["output_linear.bias"],
        },
        {
          discretization,
          outputBlock,
          residual,
          form: state && (x.shape[1] ?? 0) <= FEW ? "recurrent" : "conv",
          state: state?.tensors["state"],
          returnState: state !== undefined,
        },
      );
      state?.update({ state: next.state });
      return next.out;
    });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}

/** The parameters of `channels` models, as S4D-Lin starts them. */
export function s4dPlan(
  who: string,
  channels: number,
  config: { readonly stateSize: number; readonly dtMin?: number; readonly dtMax?: number },
): Plan {
  const { stateSize, dtMin = 0.001, dtMax = 0.1 } = config;
  expectNumber(who, "dtMax", dtMax, 1e-6);
  expectNumber(who, "dtMin", dtMin, 1e-6, dtMax);
  return {
    log_dt: {
      shape: [channels],
      init: (gpu, shape, random) =>
        randomUniform(gpu, shape, { ...random, low: Math.log(dtMin), high: Math.log(dtMax) }),
    },
    log_A_real: { shape: [channels, stateSize], init: Math.log(0.5) },
    A_imag: {
      shape: [channels, stateSize],
      init: (gpu, shape) =>
        gpu.tensor(
          Array.from({ length: channels * stateSize }, (_, i) => Math.PI * (i % stateSize)),
          shape,
        ),
    },
    C: {
      shape: [channels, stateSize, 2],
      init: (gpu, shape, random) => randomNormal(gpu, shape, { ...random, std: Math.SQRT1_2 }),
    },
    D: { shape: [channels], init: (gpu, shape, random) => randomNormal(gpu, shape, random) },
  };
}
