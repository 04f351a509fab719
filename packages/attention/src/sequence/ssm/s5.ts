import {
  boolean,
  checkConfig,
  integer,
  number,
  oneOf,
  schema,
  tensor,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { checkDiagonal, diagonalModel, type DiagonalParameters } from "./diagonal.js";
import { poles } from "./poles.js";
import { logSteps, STEPS } from "./steps.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import type { StatePlan } from "../state/sequence_state.js";

export interface S5Parameters extends DiagonalParameters {
  /** [states]: real and imaginary part of A. */
  readonly lambdaRe: Tensor;
  readonly lambdaIm: Tensor;
  /** [states]: ln of the step. */
  readonly logStep: Tensor;
}

/** The keys of the recurrence. */
const RULE = {
  discretization: oneOf("How A becomes a step's pole.", ["zoh", "bilinear"], { default: "zoh" }),
  conjugateSymmetry: boolean("The states stand for pairs of conjugates: twice the real part.", {
    default: true,
  }),
  clipEigs: boolean("Real parts above -1e-4 count as -1e-4, without gradient.", { default: false }),
  stepRescale: number("Factor of every step, for input of another rate.", { min: 0, default: 1 }),
};
const OPTIONS = schema("s5", {
  ...RULE,
  state: tensor("[batch, states, 2]; zeros where it is left out.", { optional: true }),
  residual: tensor("Added to the output.", { optional: true }),
  bidirectional: boolean(
    "A second scan from the last token back, whose columns of c follow the forward ones.",
    { default: false },
  ),
});
export type S5Options = Config<typeof OPTIONS>;

/** A's largest real part with `clipEigs`. */
const LEAST_DAMPING = -1e-4;

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
  const who = OPTIONS.name;
  checkConfig(who, parameters, ["lambdaRe", "lambdaIm", "logStep", "b", "c", "dSkip"]);
  const {
    discretization: rule,
    conjugateSymmetry,
    clipEigs,
    stepRescale: rescale,
    state,
    residual,
    bidirectional,
  } = OPTIONS.read(options);
  const { lambdaRe, lambdaIm, logStep, ...rest } = parameters;
  checkDiagonal(who, u, { lambdaRe, lambdaIm, logStep }, rest, { state, residual, bidirectional });
  return u.gpu.scope(() => {
    const clip = clipEigs ? LEAST_DAMPING : undefined;
    const pole = poles(lambdaRe, lambdaIm, logStep, { rule, clip, rescale });
    return diagonalModel(u, pole, rest, {
      state,
      residual,
      bidirectional,
      factor: conjugateSymmetry ? 2 : 1,
    });
  });
}

const LAYER = schema("S5", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  stateSize: integer("States that are kept: half of the conjugate pairs with conjugateSymmetry.", {
    min: 1,
    defaultDoc: "dim",
  }),
  ...RULE,
  ...STEPS,
});
export type S5Config = Config<typeof LAYER>;

/**
 * `s5` as a layer that decodes: parameters Lambda_re, Lambda_im, log_step [stateSize], B [stateSize, dim, 2],
 * C [dim, stateSize, 2], D [dim].
 */
export class S5 extends SequenceMixer<typeof LAYER> {
  static readonly schema = LAYER;

  /**
   * Names, shapes and initial values of the parameters: A = -1/2 + i pi n (the diagonal start of S4D-Lin), steps
   * log-uniform, B and C normal over the root of what they sum. @throws ConfigError
   */
  static plan(config: S5Config): ParameterPlan {
    const { dim, stateSize = dim, dtMin, dtMax } = LAYER.read(config);
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
      log_step: { shape: [stateSize], init: logSteps(LAYER.name, dtMin, dtMax) },
      B: { shape: [stateSize, dim, 2], init: { std: (2 * dim) ** -0.5 } },
      C: { shape: [dim, stateSize, 2], init: { std: (2 * stateSize) ** -0.5 } },
      D: { shape: [dim], init: { std: 1 } },
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: S5Config, parameters: Parameters) {
    super(LAYER, config, S5.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { dim, stateSize = dim } = this.config;
    return { state: { shape: [batch, stateSize, 2] } };
  }

  protected run(x: Tensor, { state, residual }: Given): { out: Tensor; state: Tensor } {
    const p = this.weights;
    const { discretization, conjugateSymmetry, clipEigs, stepRescale } = this.config;
    return s5(
      x,
      {
        lambdaRe: p["Lambda_re"]!,
        lambdaIm: p["Lambda_im"]!,
        logStep: p["log_step"]!,
        b: p["B"]!,
        c: p["C"]!,
        dSkip: p["D"]!,
      },
      { discretization, conjugateSymmetry, clipEigs, stepRescale, state, residual },
    );
  }
}
