import {
  boolean,
  causalConv1d,
  e,
  elementwise,
  expectShape,
  integer,
  linear,
  matrix,
  ones,
  schema,
  silu,
  split,
  tensor,
  zeros,
  type Config,
  type Draw,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { expectFloat32 } from "../decay/decayed_attention.js";
import { scan } from "./selective_scan.js";
import { convolution, negativeExp, stepBias, tapsOf, uniform } from "../state/parameters.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import { expectInput, RESIDUAL, type StatePlan } from "../state/sequence_state.js";

const MAMBA = schema("MambaBlock", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  innerDim: integer("Channels of the scan.", { min: 1, defaultDoc: "2 dim" }),
  stateSize: integer("States of a channel.", { min: 1, default: 16 }),
  convSize: integer("Taps of the convolution.", { min: 1, default: 4 }),
  dtRank: integer("Width that delta is projected from.", { min: 1, defaultDoc: "ceil(dim / 16)" }),
  bias: boolean("Biases of the input and output projections.", { default: false }),
  convBias: boolean("A bias of the convolution.", { default: true }),
});
export type MambaConfig = Config<typeof MAMBA>;

const CALL = schema(MAMBA.name, {
  convState: tensor("The convolution's last inputs, [batch, convSize - 1, innerDim].", {
    defaultDoc: "zeros",
  }),
  ssmState: tensor("The state before the first token, [batch, innerDim, stateSize].", {
    defaultDoc: "zeros",
  }),
  ...RESIDUAL,
});

/** The states before and after a call, as tensors with gradients. */
export interface MambaStates {
  /** [batch, convSize - 1, innerDim]: the convolution's last inputs. */
  readonly convState: Tensor;
  /** [batch, innerDim, stateSize] */
  readonly ssmState: Tensor;
}

const logIndex = elementwise("A_log", ["n"], (n) => e.log(n));
/** ln(n + 1) for state n of every channel. */
const logStates: Draw = (gpu, shape) => {
  const [channels, states] = shape as [number, number];
  return logIndex(
    gpu.tensor(
      Float32Array.from({ length: channels * states }, (_, i) => 1 + (i % states)),
      shape,
    ),
  );
};

/**
 * Mamba's block: (x', z) = split(x W_in^T), x' = silu(conv(x')), (dt, b, c) = split(x' W_x^T),
 * delta = dt W_dt^T + b_dt; y = selectiveScan(x', softplus(delta), -e^A_log, b, c) with the skip D and the gate
 * silu(z); out = y W_out^T. No norm and no residual of its own.
 *
 * x [batch, seq, dim], f32. Parameters in_proj, conv1d, x_proj, dt_proj, out_proj (`.weight` [out, in], `.bias`;
 * conv1d.weight [innerDim, 1, convSize]), A_log [innerDim, stateSize], D [innerDim].
 * Gu and Dao 2023, arXiv:2312.00752, section 3.4.
 */
export class MambaBlock extends SequenceMixer<typeof MAMBA> {
  static readonly schema = MAMBA;

  /**
   * Names, shapes and initial values of the parameters: A from -1 to -stateSize, steps of 0.001 to 0.1, normal matrices.
   *
   * @throws ConfigError
   */
  static plan(config: MambaConfig): ParameterPlan {
    const { dim, innerDim, stateSize, convSize, dtRank, bias, convBias } = sizes(config);
    return {
      "in_proj.weight": matrix(2 * innerDim, dim),
      ...(bias ? { "in_proj.bias": zeros(2 * innerDim) } : {}),
      ...convolution("conv1d", innerDim, convSize, convBias),
      "x_proj.weight": matrix(dtRank + 2 * stateSize, innerDim),
      "dt_proj.weight": { shape: [innerDim, dtRank], init: uniform(dtRank ** -0.5) },
      "dt_proj.bias": { shape: [innerDim], init: stepBias },
      A_log: { shape: [innerDim, stateSize], init: logStates },
      D: ones(innerDim),
      "out_proj.weight": matrix(dim, innerDim, "output"),
      ...(bias ? { "out_proj.bias": zeros(dim) } : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: MambaConfig, parameters: Parameters) {
    super(MAMBA, config, MambaBlock.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { innerDim, stateSize, convSize } = sizes(this.config);
    return {
      convState: { shape: [batch, convSize - 1, innerDim] },
      ssmState: { shape: [batch, innerDim, stateSize] },
    };
  }

  protected run(x: Tensor, given: Given): ReturnType<MambaBlock["outputs"]> {
    return this.outputs(x, given);
  }

  /**
   * The output and the states after it, from the states before it (zero by default).
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  outputs(x: Tensor, options: Config<typeof CALL> = {}): MambaStates & { readonly out: Tensor } {
    const who = MAMBA.name;
    const { dim, innerDim, stateSize, convSize, dtRank } = sizes(this.config);
    const { convState, ssmState, residual } = CALL.read(options);
    const { batch } = expectInput(who, x, dim, residual);
    expectFloat32(who, { convState, ssmState });
    if (convState) expectShape(who, "convState", convState, [batch, convSize - 1, innerDim]);
    if (ssmState) expectShape(who, "ssmState", ssmState, [batch, innerDim, stateSize]);
    const p = this.weights;
    return x.gpu.scope(() => {
      const projected = linear(x, p["in_proj.weight"]!, p["in_proj.bias"]);
      const [inner, z] = split(projected, [innerDim, innerDim]) as [Tensor, Tensor];
      const conv = causalConv1d(inner, tapsOf(p["conv1d.weight"]!), {
        bias: p["conv1d.bias"],
        state: convState,
      });
      const u = silu(conv.out);
      const [dt, bc] = split(linear(u, p["x_proj.weight"]!), [dtRank, 2 * stateSize]) as [Tensor, Tensor];
      const delta = linear(dt, p["dt_proj.weight"]!, p["dt_proj.bias"]);
      const y = scan(u, delta, bc, negativeExp(p["A_log"]!), { z, state: ssmState, dSkip: p["D"] });
      return {
        out: linear(y.out, p["out_proj.weight"]!, p["out_proj.bias"], { residual }),
        convState: conv.state,
        ssmState: y.state,
      };
    });
  }
}

/** The configuration with nothing left out. @throws ConfigError */
function sizes(config: MambaConfig) {
  const read = MAMBA.read(config);
  const { dim, innerDim = 2 * dim, dtRank = Math.ceil(dim / 16) } = read;
  return { ...read, innerDim, dtRank };
}
