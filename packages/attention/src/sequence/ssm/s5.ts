import {
  checkConfig,
  expectBoolean,
  expectInteger,
  expectNumber,
  expectOneOf,
  randomUniform,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { checkParameters, initParameters, type InitOptions, type Plan } from "../../parameters.js";
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

export interface S5Parameters extends DiagonalParameters {
  /** [states]: real and imaginary part of A. */
  readonly lambdaRe: Tensor;
  readonly lambdaIm: Tensor;
  /** [states]: ln of the step. */
  readonly logStep: Tensor;
}

/** The keys of the recurrence. */
export interface S5Rule {
  /** How A becomes a step's pole; default "zoh". */
  readonly discretization?: "zoh" | "bilinear";
  /** The states stand for pairs of conjugates: twice the real part (default true). */
  readonly conjugateSymmetry?: boolean;
  /** Real parts above -1e-4 count as -1e-4, without gradient; default false. */
  readonly clipEigs?: boolean;
  /** Factor of every step, for input of another rate; default 1. */
  readonly stepRescale?: number;
}

export interface S5Options extends S5Rule {
  /** [batch, states, 2]; default 0. */
  readonly state?: Tensor | undefined;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
  /** A second scan from the last token back, whose columns of c follow the forward ones; default false. */
  readonly bidirectional?: boolean;
}

const RULE = ["discretization", "conjugateSymmetry", "clipEigs", "stepRescale"];

/** A's largest real part with `clipEigs`. */
const LEAST_DAMPING = -1e-4;

function checkRule(who: string, rule: S5Rule): void {
  const { discretization = "zoh", conjugateSymmetry = true, clipEigs = false, stepRescale = 1 } = rule;
  expectBoolean(who, "conjugateSymmetry", conjugateSymmetry);
  expectBoolean(who, "clipEigs", clipEigs);
  expectOneOf(who, "discretization", discretization, ["zoh", "bilinear"]);
  expectNumber(who, "stepRescale", stepRescale, 0);
}

/**
 * S5: one complex diagonal state space model over all channels, A = lambdaRe + i lambdaIm, dt = stepRescale
 * exp(logStep) for each state,
 *
 *   x_t = abar x_{t-1} + bbar (b u_t), y_t = 2 Re(c x_t) + dSkip u_t,
 *
 * with abar = exp(dt A), bbar = (abar - 1) / A, or the bilinear rule. u [batch, seq, dim]; b [states, dim, 2],
 * c [dim, states, 2] ([dim, 2 states, 2] if bidirectional) and the state [batch, states, 2] are complex with a last
 * axis (re, im); f32. Outputs y and the forward state after the last token; gradients flow through both states.
 * Smith, Warrington and Linderman 2022, arXiv:2208.04933, sections 3 and 4.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function s5(
  u: Tensor,
  parameters: S5Parameters,
  options: S5Options = {},
): { out: Tensor; state: Tensor } {
  const who = "s5";
  checkConfig(who, parameters, ["lambdaRe", "lambdaIm", "logStep", "b", "c", "dSkip"]);
  checkConfig(who, options, [...RULE, "state", "residual", "bidirectional"]);
  checkRule(who, options);
  if (options.bidirectional !== undefined) expectBoolean(who, "bidirectional", options.bidirectional);
  const { lambdaRe, lambdaIm, logStep, ...rest } = parameters;
  const {
    discretization: rule = "zoh",
    conjugateSymmetry = true,
    clipEigs = false,
    stepRescale = 1,
  } = options;
  checkDiagonal(who, u, { lambdaRe, lambdaIm, logStep }, rest, options);
  return u.gpu.scope(() => {
    const clip = clipEigs ? LEAST_DAMPING : undefined;
    const pole = poles(lambdaRe, lambdaIm, logStep, { rule, clip, rescale: stepRescale });
    const { state, residual, bidirectional = false } = options;
    return diagonalModel(u, pole, rest, {
      state,
      residual,
      bidirectional,
      factor: conjugateSymmetry ? 2 : 1,
    });
  });
}

export interface S5Config extends S5Rule {
  readonly dim: number;
  /** States that are kept: half of the conjugate pairs with `conjugateSymmetry`. */
  readonly stateSize: number;
  /** Steps at the beginning, log-uniform; default 0.001 to 0.1. */
  readonly dtMin?: number;
  readonly dtMax?: number;
}

/**
 * `s5` as a layer that decodes: parameters Lambda_re, Lambda_im, log_step [stateSize], B [stateSize, dim, 2],
 * C [dim, stateSize, 2], D [dim].
 */
export class S5 implements Module {
  readonly config: S5Config;
  readonly #p: Record<string, Tensor>;
  readonly #rule: S5Rule;

  /** @throws ConfigError */
  constructor(config: S5Config, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("S5", S5.plan(config), parameters);
    this.config = config;
    this.#rule = Object.fromEntries(Object.entries(config).filter(([key]) => RULE.includes(key)));
  }

  /**
   * Names, shapes and beginnings of the parameters: A = -1/2 + i pi n (the diagonal start of S4D-Lin), steps
   * log-uniform, B and C normal over the root of what they sum. @throws ConfigError
   */
  static plan(config: S5Config): Plan {
    const who = "S5";
    checkConfig(who, config, ["dim", "stateSize", "dtMin", "dtMax", ...RULE]);
    const { dim, stateSize, dtMin = 0.001, dtMax = 0.1 } = config;
    expectInteger(who, "dim", dim, 1);
    expectInteger(who, "stateSize", stateSize, 1);
    expectNumber(who, "dtMax", dtMax, 1e-6);
    expectNumber(who, "dtMin", dtMin, 1e-6, dtMax);
    checkRule(who, config);
    return {
      Lambda_re: { shape: [stateSize], init: -0.5 },
      Lambda_im: {
        shape: [stateSize],
        init: (gpu, shape) =>
          gpu.tensor(
            Array.from({ length: stateSize }, (_, n) => Math.PI * n),
            shape,
          ),
      },
      log_step: {
        shape: [stateSize],
        init: (gpu, shape, random) =>
          randomUniform(gpu, shape, { ...random, low: Math.log(dtMin), high: Math.log(dtMax) }),
      },
      B: { shape: [stateSize, dim, 2], init: normal(2 * dim) },
      C: { shape: [dim, stateSize, 2], init: normal(2 * stateSize) },
      D: { shape: [dim], init: normal(1) },
    };
  }

  static init(gpu: Gpu, config: S5Config, options: InitOptions): S5 {
    return new S5(config, initParameters("S5", gpu, S5.plan(config), options));
  }

  /** The state of a decoding run, which `forward` moves on. */
  createState(gpu: Gpu, options: StateOptions): SequenceState {
    return newState("S5", gpu, options, (batch) => this.#statePlan(batch));
  }

  #statePlan(batch: number): StatePlan {
    return { state: { shape: [batch, this.config.stateSize, 2] } };
  }

  /** x [batch, seq, dim]: a whole sequence, or what follows the state. */
  forward(x: Tensor, options: SequenceOptions = {}): Tensor {
    expectCall("S5", x, this.config.dim, options, (batch) => this.#statePlan(batch));
    const { state, residual } = options;
    const p = this.#p;
    return x.gpu.scope(() => {
      const next = s5(
        x,
        {
          lambdaRe: p["Lambda_re"]!,
          lambdaIm: p["Lambda_im"]!,
          logStep: p["log_step"]!,
          b: p["B"]!,
          c: p["C"]!,
          dSkip: p["D"]!,
        },
        { ...this.#rule, state: state?.tensors["state"], residual },
      );
      state?.update({ state: next.state });
      return next.out;
    });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}
