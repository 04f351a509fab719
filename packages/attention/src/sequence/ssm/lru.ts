import {
  checkConfig,
  expectNumber,
  integer,
  log,
  mul,
  number,
  randomUniform,
  schema,
  tensor,
  type Config,
  type Draw,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { checkDiagonal, diagonalModel, type DiagonalParameters } from "./diagonal.js";
import { poles } from "./poles.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import { RESIDUAL, type StatePlan } from "../state/sequence_state.js";

export interface LruParameters extends DiagonalParameters {
  /** [states]: ln(-ln |lambda|). */
  readonly nuLog: Tensor;
  /** [states]: ln of the angle of lambda, in radians. */
  readonly thetaLog: Tensor;
  /** [states]: ln of the factor of what enters the state. */
  readonly gammaLog: Tensor;
}

const OPTIONS = schema("lru", {
  state: tensor("The state before the first token, [batch, states, 2].", { defaultDoc: "zeros" }),
  ...RESIDUAL,
});
export type LruOptions = Config<typeof OPTIONS>;

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
  const who = OPTIONS.name;
  checkConfig(who, parameters, ["nuLog", "thetaLog", "gammaLog", "b", "c", "dSkip"]);
  const read = OPTIONS.read(options);
  const { nuLog, thetaLog, gammaLog, ...rest } = parameters;
  checkDiagonal(who, u, { nuLog, thetaLog, gammaLog }, rest, read);
  return u.gpu.scope(() =>
    diagonalModel(u, poles(nuLog, thetaLog, gammaLog, { rule: "discrete" }), rest, { ...read, factor: 1 }),
  );
}

const LRU = schema("Lru", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  stateSize: integer("Complex states.", { min: 1, defaultDoc: "dim" }),
  rMin: number("Least |lambda| at the beginning, at most rMax.", { min: 0, default: 0.9 }),
  rMax: number("Largest |lambda| at the beginning.", { min: 0, max: 1 - 1e-6, default: 0.999 }),
  maxPhase: number("Largest angle of lambda at the beginning.", { min: 1e-3, default: 2 * Math.PI }),
});
export type LruConfig = Config<typeof LRU>;

/**
 * `lru` as a layer: parameters nu_log, theta_log, gamma_log [stateSize], B [stateSize, dim, 2], C [dim, stateSize, 2],
 * D [dim].
 */
export class Lru extends SequenceMixer<typeof LRU> {
  static readonly schema = LRU;

  /**
   * Names, shapes and initial values of the parameters: |lambda|^2 evenly over the ring, angles at random,
   * gamma = (1 - |lambda|^2)^(1/2), B and C normal over the root of what they sum. @throws ConfigError
   */
  static plan(config: LruConfig): ParameterPlan {
    const { dim, stateSize = dim, rMin, rMax, maxPhase } = LRU.read(config);
    expectNumber(LRU.name, "rMin", rMin, 0, rMax);
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
      B: { shape: [stateSize, dim, 2], init: { std: (2 * dim) ** -0.5 } },
      C: { shape: [dim, stateSize, 2], init: { std: stateSize ** -0.5 } },
      D: { shape: [dim], init: { std: 1 } },
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: LruConfig, parameters: Parameters) {
    super(LRU, config, Lru.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { dim, stateSize = dim } = this.config;
    return { state: { shape: [batch, stateSize, 2] } };
  }

  protected run(x: Tensor, { state, residual }: Given): { out: Tensor; state: Tensor } {
    const p = this.weights;
    return lru(
      x,
      {
        nuLog: p["nu_log"]!,
        thetaLog: p["theta_log"]!,
        gammaLog: p["gamma_log"]!,
        b: p["B"]!,
        c: p["C"]!,
        dSkip: p["D"]!,
      },
      { state, residual },
    );
  }
}
