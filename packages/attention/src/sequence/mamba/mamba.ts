import {
  causalConv1d,
  checkConfig,
  e,
  elementwise,
  expectInteger,
  expectShape,
  linear,
  randomUniform,
  silu,
  split,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { expectFloat32 } from "../decay/decayed_attention.js";
import {
  checkParameters,
  initParameters,
  matrix,
  ones,
  zeros,
  type Draw,
  type InitOptions,
  type Plan,
} from "../../parameters.js";
import { scan } from "./selective_scan.js";
import {
  carried,
  expectCall,
  expectInput,
  newState,
  type Before,
  type SequenceOptions,
  type SequenceState,
  type StateOptions,
  type StatePlan,
} from "../state/sequence_state.js";

export interface MambaConfig {
  /** Width of x and of the output. */
  readonly dim: number;
  /** Channels of the scan; default 2 dim. */
  readonly innerDim?: number;
  /** States of a channel; default 16. */
  readonly stateSize?: number;
  /** Taps of the convolution; default 4. */
  readonly convSize?: number;
  /** Width that delta is projected from; default ceil(dim / 16). */
  readonly dtRank?: number;
  /** Biases of the input and output projections; default false. */
  readonly bias?: boolean;
}

/** The states before and after a call, as tensors with gradients. */
export interface MambaStates {
  /** [batch, convSize - 1, innerDim]: the convolution's last inputs. */
  readonly convState: Tensor;
  /** [batch, innerDim, stateSize] */
  readonly ssmState: Tensor;
}

/** -e^A_log: decays of any size, all negative; where the exponential would overflow, a state has long been forgotten. */
export const negativeExp: (...args: (Tensor | number)[]) => Tensor = elementwise(
  "-exp(A_log)",
  ["aLog"],
  (aLog) => e.neg(e.exp(e.min(aLog, 69))),
);
const logIndex = elementwise("A_log", ["n"], (n) => e.log(n));
const inverseSoftplus = elementwise("dt_proj.bias", ["x"], (x) => {
  const dt = e.exp(x);
  return e.add(dt, e.log(e.sub(1, e.exp(e.neg(dt)))));
});

/** Numbers uniform in +-bound. */
export const uniform =
  (bound: number): Draw =>
  (gpu, shape, random) =>
    randomUniform(gpu, shape, { ...random, low: -bound, high: bound });

/** The inverse softplus of steps that are log-uniform in 0.001..0.1. */
export const stepBias: Draw = (gpu, shape, random) =>
  inverseSoftplus(randomUniform(gpu, shape, { ...random, low: Math.log(1e-3), high: Math.log(0.1) }));

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
 * conv1d.weight [innerDim, convSize]), A_log [innerDim, stateSize], D [innerDim].
 * Gu and Dao 2023, arXiv:2312.00752, section 3.4.
 */
export class MambaBlock implements Module {
  readonly config: MambaConfig;
  readonly #p: Record<string, Tensor>;

  /** @throws ConfigError */
  constructor(config: MambaConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("MambaBlock", MambaBlock.plan(config), parameters);
    this.config = config;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: MambaConfig): Plan {
    const { dim, innerDim, stateSize, convSize, dtRank, bias } = sizes(config);
    return {
      "in_proj.weight": matrix(2 * innerDim, dim),
      ...(bias ? { "in_proj.bias": zeros(2 * innerDim) } : {}),
      "conv1d.weight": { shape: [innerDim, convSize], init: uniform(convSize ** -0.5) },
      "conv1d.bias": zeros(innerDim),
      "x_proj.weight": matrix(dtRank + 2 * stateSize, innerDim),
      "dt_proj.weight": { shape: [innerDim, dtRank], init: uniform(dtRank ** -0.5) },
      "dt_proj.bias": { shape: [innerDim], init: stepBias },
      A_log: { shape: [innerDim, stateSize], init: logStates },
      D: ones(innerDim),
      "out_proj.weight": matrix(dim, innerDim),
      ...(bias ? { "out_proj.bias": zeros(dim) } : {}),
    };
  }

  /** A from -1 to -stateSize, steps of 0.001 to 0.1, normal matrices. */
  static init(gpu: Gpu, config: MambaConfig, options: InitOptions): MambaBlock {
    return new MambaBlock(config, initParameters("MambaBlock", gpu, MambaBlock.plan(config), options));
  }

  /** An empty state; its size does not depend on the text's length. */
  createState(options: StateOptions): SequenceState {
    return newState("MambaBlock", this.#p, options, (batch) => this.#statePlan(batch));
  }

  #statePlan(batch: number): StatePlan {
    const { innerDim, stateSize, convSize } = sizes(this.config);
    return {
      convState: { shape: [batch, convSize - 1, innerDim] },
      ssmState: { shape: [batch, innerDim, stateSize] },
    };
  }

  forward(x: Tensor, options: SequenceOptions = {}): Tensor {
    expectCall("MambaBlock", x, this.config.dim, options, (batch) => this.#statePlan(batch));
    return carried(x, options, (given) => this.outputs(x, given));
  }

  /** The output and the states after it, from the states before it (zero by default). */
  outputs(
    x: Tensor,
    options: Before<MambaStates> & Pick<SequenceOptions, "residual"> = {},
  ): MambaStates & { readonly out: Tensor } {
    const who = "MambaBlock";
    checkConfig(who, options, ["convState", "ssmState", "residual"]);
    const { dim, innerDim, stateSize, convSize, dtRank } = sizes(this.config);
    const { convState, ssmState, residual } = options;
    const { batch } = expectInput(who, x, dim, residual);
    expectFloat32(who, { convState, ssmState });
    if (convState) expectShape(who, "convState", convState, [batch, convSize - 1, innerDim]);
    if (ssmState) expectShape(who, "ssmState", ssmState, [batch, innerDim, stateSize]);
    const p = this.#p;
    return x.gpu.scope(() => {
      const projected = linear(x, p["in_proj.weight"]!, p["in_proj.bias"]);
      const [inner, z] = split(projected, [innerDim, innerDim]) as [Tensor, Tensor];
      const conv = causalConv1d(inner, p["conv1d.weight"]!, { bias: p["conv1d.bias"], state: convState });
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

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}

function sizes(config: MambaConfig): Required<MambaConfig> {
  const who = "MambaBlock";
  checkConfig(who, config, ["dim", "innerDim", "stateSize", "convSize", "dtRank", "bias"]);
  const { dim, innerDim = 2 * dim, stateSize = 16, convSize = 4, bias = false } = config;
  expectInteger(who, "dim", dim, 1);
  const { dtRank = Math.ceil(dim / 16) } = config;
  for (const [name, n] of Object.entries({ innerDim, stateSize, convSize, dtRank }))
    expectInteger(who, name, n, 1);
  return { dim, innerDim, stateSize, convSize, dtRank, bias };
}
