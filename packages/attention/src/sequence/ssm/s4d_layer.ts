import {
  integer,
  matrix,
  oneOf,
  schema,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { FEW } from "./channel_model.js";
import { s4d } from "./s4d.js";
import { logSteps, STEPS } from "./steps.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import type { StatePlan } from "../state/sequence_state.js";

const S4D = schema("S4d", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  stateSize: integer("States of a channel that are kept, one of each pair of conjugates.", {
    min: 1,
    default: 32,
  }),
  discretization: oneOf("How A becomes a step's pole.", ["zoh", "bilinear"], { default: "zoh" }),
  outputBlock: oneOf(
    '"glu": gelu, a projection to twice the width and a gated linear unit.',
    ["none", "glu"],
    {
      default: "glu",
    },
  ),
  ...STEPS,
});
export type S4dConfig = Config<typeof S4D>;

/**
 * `s4d` as a layer: parameters log_dt [dim], log_A_real, A_imag [dim, stateSize], C [dim, stateSize, 2], D [dim], and
 * with the output block output_linear.weight [2 dim, dim], output_linear.bias [2 dim].
 */
export class S4d extends SequenceMixer<typeof S4D> {
  static readonly schema = S4D;

  /**
   * Names, shapes and initial values of the parameters: S4D-Lin, A_n = -1/2 + i pi n, steps log-uniform, C complex
   * normal. @throws ConfigError
   */
  static plan(config: S4dConfig): ParameterPlan {
    const { dim, outputBlock, ...rest } = S4D.read(config);
    return {
      ...s4dPlan(S4D.name, dim, rest),
      ...(outputBlock === "glu"
        ? { "output_linear.weight": matrix(2 * dim, dim), "output_linear.bias": zeros(2 * dim) }
        : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: S4dConfig, parameters: Parameters) {
    super(S4D, config, S4d.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { dim, stateSize } = this.config;
    return { state: { shape: [batch, dim, stateSize, 2] } };
  }

  protected run(x: Tensor, { state, residual }: Given): ReturnType<typeof s4d> {
    const { discretization, outputBlock } = this.config;
    const p = this.weights;
    return s4d(
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
        state,
        returnState: state !== undefined,
      },
    );
  }
}

/** The parameters of `channels` models, as S4D-Lin starts them. @throws ConfigError */
export function s4dPlan(
  who: string,
  channels: number,
  config: { readonly stateSize: number; readonly dtMin: number; readonly dtMax: number },
): ParameterPlan {
  const { stateSize, dtMin, dtMax } = config;
  return {
    log_dt: { shape: [channels], init: logSteps(who, dtMin, dtMax) },
    log_A_real: { shape: [channels, stateSize], init: Math.log(0.5) },
    A_imag: {
      shape: [channels, stateSize],
      init: (gpu, shape) =>
        gpu.tensor(
          Array.from({ length: channels * stateSize }, (_, i) => Math.PI * (i % stateSize)),
          shape,
        ),
    },
    C: { shape: [channels, stateSize, 2], init: { std: Math.SQRT1_2 } },
    D: { shape: [channels], init: { std: 1 } },
  };
}
