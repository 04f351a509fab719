import {
  checkConfig,
  expectInteger,
  expectNumber,
  log,
  mul,
  randomUniform,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { checkParameters, initParameters, type Draw, type InitOptions, type Plan } from "../../parameters.js";
import { checkDiagonal, diagonalModel, normal, type DiagonalParameters } from "./diagonal.js";
import { poles } from "./poles.js";
import {
  expectCall,
  newState,
  type SequenceOptions,
  type SequenceState,
  type StateOptions,
  type StatePlan,
} from "../state/sequence_state.js";

export interface LruParameters extends DiagonalParameters {
  /** [states]: ln(-ln |lambda|). */
  readonly nuLog: Tensor;
  /** [states]: ln of the angle of lambda, in radians. */
  readonly thetaLog: Tensor;
  /** [states]: ln of the factor of what enters the state. */
  readonly gammaLog: Tensor;
}

export interface LruOptions {
  /** [batch, states, 2]; default 0. */
  readonly state?: Tensor | undefined;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
}

/**
 * Linear recurrent unit: a complex diagonal recurrence that is discrete from the start,
 *
 *   lambda = exp(-exp(nuLog) + i exp(thetaLog)),
 *   x_t = lambda x_{t-1} + exp(gammaLog) (b u_t), y_t = Re(c x_t) + dSkip u_t.
 *
 * u [batch, seq, dim]; b [states, dim, 2], c [dim, states, 2] and the state [batch, states, 2] are complex with a last
 * axis (re, im); f32. Outputs y [batch, seq, dim] and the state after the last token; gradients flow through both
 * states. Orvieto et al. 2023, arXiv:2303.06349, section 3.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function lru(
  u: Tensor,
  parameters: LruParameters,
  options: LruOptions = {},
): { out: Tensor; state: Tensor } {
  const who = "lru";
  checkConfig(who, parameters, ["nuLog", "thetaLog", "gammaLog", "b", "c", "dSkip"]);
  checkConfig(who, options, ["state", "residual"]);
  const { nuLog, thetaLog, gammaLog, ...rest } = parameters;
  checkDiagonal(who, u, { nuLog, thetaLog, gammaLog }, rest, options);
  return u.gpu.scope(() =>
    diagonalModel(u, poles(nuLog, thetaLog, gammaLog, { rule: "discrete" }), rest, { ...options, factor: 1 }),
  );
}

export interface LruConfig {
  readonly dim: number;
  readonly stateSize: number;
  /** Ring of |lambda| at the beginning; default 0.9 to 0.999. */
  readonly rMin?: number;
  readonly rMax?: number;
  /** Largest angle of lambda at the beginning; default 2 pi. */
  readonly maxPhase?: number;
}

/**
 * `lru` as a layer: parameters nu_log, theta_log, gamma_log [stateSize], B [stateSize, dim, 2], C [dim, stateSize, 2],
 * D [dim].
 */
export class Lru implements Module {
  readonly config: LruConfig;
  readonly #p: Record<string, Tensor>;

  /** @throws ConfigError */
  constructor(config: LruConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("Lru", Lru.plan(config), parameters);
    this.config = config;
  }

  /**
   * Names, shapes and beginnings of the parameters: |lambda|^2 evenly over the ring, angles at random,
   * gamma = (1 - |lambda|^2)^(1/2), B and C normal over the root of what they sum. @throws ConfigError
   */
  static plan(config: LruConfig): Plan {
    const who = "Lru";
    checkConfig(who, config, ["dim", "stateSize", "rMin", "rMax", "maxPhase"]);
    const { dim, stateSize, rMin = 0.9, rMax = 0.999, maxPhase = 2 * Math.PI } = config;
    expectInteger(who, "dim", dim, 1);
    expectInteger(who, "stateSize", stateSize, 1);
    expectNumber(who, "rMax", rMax, 0, 1 - 1e-6);
    expectNumber(who, "rMin", rMin, 0, rMax);
    expectNumber(who, "maxPhase", maxPhase, 1e-3);
    const ring =
      (of: (square: number) => number): Draw =>
      (gpu, shape) => {
        const square = (n: number): number => rMin ** 2 + ((n + 0.5) / stateSize) * (rMax ** 2 - rMin ** 2);
        return gpu.tensor(
          Array.from({ length: stateSize }, (_, n) => of(square(n))),
          shape,
        );
      };
    return {
      nu_log: { shape: [stateSize], init: ring((square) => Math.log(-0.5 * Math.log(square))) },
      theta_log: {
        shape: [stateSize],
        init: (gpu, shape, random) =>
          log(mul(randomUniform(gpu, shape, { ...random, low: 1e-3, high: 1 }), maxPhase)),
      },
      gamma_log: { shape: [stateSize], init: ring((square) => 0.5 * Math.log1p(-square)) },
      B: { shape: [stateSize, dim, 2], init: normal(2 * dim) },
      C: { shape: [dim, stateSize, 2], init: normal(stateSize) },
      D: { shape: [dim], init: normal(1) },
    };
  }

  static init(gpu: Gpu, config: LruConfig, options: InitOptions): Lru {
    return new Lru(config, initParameters("Lru", gpu, Lru.plan(config), options));
  }

  /** The state of a decoding run, which `forward` moves on. */
  createState(gpu: Gpu, options: StateOptions): SequenceState {
    return newState("Lru", gpu, options, (batch) => this.#statePlan(batch));
  }

  #statePlan(batch: number): StatePlan {
    return { state: { shape: [batch, this.config.stateSize, 2] } };
  }

  /** x [batch, seq, dim]: a whole sequence, or what follows the state. */
  forward(x: Tensor, options: SequenceOptions = {}): Tensor {
    expectCall("Lru", x, this.config.dim, options, (batch) => this.#statePlan(batch));
    const { state, residual } = options;
    const p = this.#p;
    return x.gpu.scope(() => {
      const next = lru(
        x,
        {
          nuLog: p["nu_log"]!,
          thetaLog: p["theta_log"]!,
          gammaLog: p["gamma_log"]!,
          b: p["B"]!,
          c: p["C"]!,
          dSkip: p["D"]!,
        },
        { state: state?.tensors["state"], residual },
      );
      state?.update({ state: next.state });
      return next.out;
    });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}
