import {
  add,
  applyOp,
  checkConfig,
  ConfigError,
  defineKernel,
  e,
  elementwise,
  expectBoolean,
  expectDType,
  expectInteger,
  expectNumber,
  expectOneOf,
  expectShape,
  grid1d,
  linear,
  randomNormal,
  randomUniform,
  vjp,
  type Gpu,
  type Kernel,
  type Module,
  type Tensor,
} from "@x/kernels";
import { expectTokens } from "../block.js";
import {
  checkParameters,
  initParameters,
  matrix,
  zeros,
  type InitOptions,
  type Plan,
} from "../parameters.js";
import { longConvolution } from "./long_convolution.js";
import { poles } from "./poles.js";
import { finalState, powerSums } from "./power_sums.js";
import { gateHalves, gateHalvesBackward, recurrent, type RecurrentVariant } from "./s4d.wgsl.js";
import {
  expectCall,
  newState,
  type SequenceOptions,
  type SequenceState,
  type StateOptions,
  type StatePlan,
} from "./sequence_state.js";

export interface S4dParameters {
  /** [dim]: ln of the step. */
  readonly logDt: Tensor;
  /** [dim, states]: A = -exp(logAReal) + i aImag, one of each pair of conjugates. */
  readonly logAReal: Tensor;
  readonly aImag: Tensor;
  /** [dim, states, 2] */
  readonly c: Tensor;
  /** [dim] */
  readonly dSkip: Tensor;
  /** [2 dim, dim] and [2 dim], with the output block. */
  readonly wOut?: Tensor | undefined;
  readonly bOut?: Tensor | undefined;
}

export interface S4dOptions {
  /** "conv" (default): the kernel, then a long convolution; "recurrent": token by token. Equal up to rounding. */
  readonly form?: "conv" | "recurrent";
  /** How A becomes a step's pole; default "zoh". */
  readonly discretization?: "zoh" | "bilinear";
  /** "glu": z = gelu(y) wOut^T + bOut, out = z[..., :dim] sigmoid(z[..., dim:]). Default "none". */
  readonly outputBlock?: "none" | "glu";
  /** [batch, dim, states, 2]; default 0. */
  readonly state?: Tensor | undefined;
  /** Give the state after the last token; default true. It costs a pass over the input in the form "conv". */
  readonly returnState?: boolean;
  /** Give the convolution's kernel [dim, seq], without the skip; default false. */
  readonly returnKernel?: boolean;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
}

export interface S4dOutputs {
  readonly out: Tensor;
  /** [batch, dim, states, 2], unless `returnState` is false. */
  readonly state?: Tensor;
  /** [dim, seq], with `returnKernel`. */
  readonly kernel?: Tensor;
}

/** The diagonal state space models of all channels as the forms take them. */
export interface ChannelModel {
  /** [dim, states, 4] of `poles`. */
  readonly pole: Tensor;
  readonly c: Tensor;
}

const recurrentKernel: Kernel<RecurrentVariant> = defineKernel({
  name: "s4dRecurrent",
  bindings: (v: RecurrentVariant) => ({
    u: "read f32" as const,
    pole: "read vec4u" as const,
    c: "read vec2f" as const,
    ...(v.state ? { state: "read vec2f" as const } : {}),
    out: "write f32" as const,
    state_out: "write vec2f" as const,
  }),
  params: { batch: "u32", seq: "u32", dim: "u32", states: "u32" },
  wgsl: recurrent,
});

/** Outputs [batch, seq, dim] without the skip, by the convolution. */
function convolved(u: Tensor, kernel: Tensor, { pole, c }: ChannelModel, state: Tensor | undefined): Tensor {
  const y = longConvolution(u, kernel);
  return state ? add(y, powerSums(c, pole, u.shape[1]!, state)) : y;
}

/** The same outputs and the last state in one pass over the tokens; its gradient is the convolution's. */
function stepped(
  u: Tensor,
  { pole, c }: ChannelModel,
  state: Tensor | undefined,
): { y: Tensor; state: Tensor } {
  const { gpu } = u;
  const [batch, seq, dim] = u.shape as [number, number, number];
  const states = pole.shape[1]!;
  const lanes = Math.min(64, 2 ** Math.ceil(Math.log2(states)));
  const inputs = [u, pole, c, state];
  const [y, last] = applyOp({
    name: "s4dRecurrent",
    inputs,
    forward: () => {
      const [out, state_out] = [gpu.empty(u.shape), gpu.empty([batch, dim, states, 2])];
      gpu.run(recurrentKernel, {
        variant: { lanes, each: Math.ceil(states / lanes), state: state !== undefined },
        bindings: { u, pole, c, state, out, state_out },
        params: { batch, seq, dim, states },
        workgroups: grid1d(batch * Math.ceil((dim * lanes) / 64)),
      });
      return { outputs: [out, state_out] };
    },
    backward: ({ grads, needs }) => {
      const wrt = inputs.filter((t, i): t is Tensor => t !== undefined && needs[i] === true);
      const run = vjp(
        () => [
          convolved(u, powerSums(c, pole, seq), { pole, c }, state),
          ...(grads[1] ? [finalState(u, pole, state)] : []),
        ],
        wrt,
      );
      const gradients = run.pullback([grads[0], ...(grads[1] ? [grads[1]] : [])]);
      let next = 0;
      return needs.map((needed) => (needed ? gradients[next++] : undefined));
    },
  });
  return { y: y!, state: last! };
}

/** Pieces up to which a state is moved on token by token. */
const FEW = 16;

/** Outputs without the skip and the next state of a sequence that goes on, in the form for its length. */
export function advance(u: Tensor, model: ChannelModel, state: Tensor): { y: Tensor; state: Tensor } {
  const { pole, c } = model;
  if (u.shape[1]! <= FEW) return stepped(u, model, state);
  const kernel = powerSums(c, pole, u.shape[1]!);
  return { y: convolved(u, kernel, model, state), state: finalState(u, pole, state) };
}

const skipped = elementwise("s4dSkip", ["y", "u", "d"], (y, u, d) => e.add(y, e.mul(u, d)));
const skippedInto = elementwise("s4dSkip", ["y", "u", "d", "residual"], (y, u, d, residual) =>
  e.add(residual, e.add(y, e.mul(u, d))),
);
const activated = elementwise("s4dGelu", ["y", "u", "d"], (y, u, d) => e.gelu(e.add(y, e.mul(u, d))));
interface GateVariant {
  readonly residual: boolean;
}

const gateKernel: Kernel<GateVariant> = defineKernel({
  name: "s4dGate",
  bindings: (v: GateVariant) => ({
    z: "read f32" as const,
    ...(v.residual ? { residual: "read f32" as const } : {}),
    out: "write f32" as const,
  }),
  params: { count: "u32", dim: "u32" },
  wgsl: gateHalves,
});

const gateBackwardKernel: Kernel<undefined> = defineKernel({
  name: "s4dGateBackward",
  bindings: { z: "read f32", grad: "read f32", dz: "write f32" },
  params: { count: "u32", dim: "u32" },
  wgsl: gateHalvesBackward,
});

/** z[..., :dim] sigmoid(z[..., dim:]) + residual, for z [batch, seq, 2 dim], without copies of the halves. */
function gated(z: Tensor, residual: Tensor | undefined): Tensor {
  const { gpu } = z;
  const shape = [z.shape[0]!, z.shape[1]!, z.shape[2]! / 2];
  const count = z.size / 2;
  const call = { params: { count, dim: shape[2]! }, workgroups: grid1d(Math.ceil(count / 64)) };
  return applyOp({
    name: "s4dGate",
    inputs: [z, residual],
    forward: () => {
      const out = gpu.empty(shape);
      const variant = { residual: residual !== undefined };
      gpu.run(gateKernel, { ...call, variant, bindings: { z, residual, out } });
      return { outputs: [out] };
    },
    backward: ({ grads, needs }) => {
      const dz = gpu.empty(z.shape);
      gpu.run(gateBackwardKernel, { ...call, bindings: { z, grad: grads[0]!, dz } });
      return [dz, needs[1] ? grads[0] : undefined];
    },
  })[0]!;
}

/** The skip, and with wOut the output block. */
function outputOf(
  y: Tensor,
  u: Tensor,
  { dSkip, wOut, bOut }: S4dParameters,
  residual: Tensor | undefined,
): Tensor {
  if (!wOut) return residual ? skippedInto(y, u, dSkip, residual) : skipped(y, u, dSkip);
  return gated(linear(activated(y, u, dSkip), wOut, bOut), residual);
}

/**
 * S4D: a diagonal state space model for every channel, A_n = -exp(logAReal_n) + i aImag_n, B = 1, dt = exp(logDt),
 *
 *   x_t = abar x_{t-1} + bbar u_t, y_t = 2 Re(sum_n c_n x_{t,n}) + dSkip u_t,
 *
 * with abar = exp(dt A), bbar = (abar - 1) / A, or the bilinear rule; as a convolution K_l = 2 Re(sum_n c_n bbar_n
 * abar_n^l), y = K * u + dSkip u, plus what a state adds. u [batch, seq, dim]; c [dim, states, 2] and the state
 * [batch, dim, states, 2] are complex with a last axis (re, im); f32. Gradients flow through both states and the kernel.
 * Gu et al. 2022, arXiv:2206.11893, section 3.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function s4d(u: Tensor, parameters: S4dParameters, options: S4dOptions = {}): S4dOutputs {
  const who = "s4d";
  checkConfig(who, parameters, ["logDt", "logAReal", "aImag", "c", "dSkip", "wOut", "bOut"]);
  checkConfig(who, options, [
    "form",
    "discretization",
    "outputBlock",
    "state",
    "returnState",
    "returnKernel",
    "residual",
  ]);
  const { form = "conv", discretization = "zoh", outputBlock = "none", state, residual } = options;
  const { returnState = true, returnKernel = false } = options;
  expectOneOf(who, "form", form, ["conv", "recurrent"]);
  expectOneOf(who, "discretization", discretization, ["zoh", "bilinear"]);
  expectOneOf(who, "outputBlock", outputBlock, ["none", "glu"]);
  expectBoolean(who, "returnState", returnState);
  expectBoolean(who, "returnKernel", returnKernel);
  const { logDt, logAReal, aImag, c, dSkip, wOut, bOut } = parameters;
  for (const [name, t] of Object.entries({ u, ...parameters, state, residual }))
    if (t !== undefined) expectDType(who, name, t, "f32");
  const sizes = expectShape(who, "u", u, ["batch", "seq", "dim"]) as {
    batch: number;
    seq: number;
    dim: number;
  };
  const { batch, seq, dim } = sizes;
  expectTokens(who, seq, "u");
  const names: Record<string, number> = { dim };
  expectShape(who, "logAReal", logAReal, ["dim", "states"], names);
  expectShape(who, "aImag", aImag, ["dim", "states"], names);
  expectShape(who, "logDt", logDt, ["dim"], names);
  expectShape(who, "c", c, ["dim", "states", 2], names);
  expectShape(who, "dSkip", dSkip, ["dim"], names);
  if (state) expectShape(who, "state", state, [batch, dim, names["states"]!, 2]);
  if ((wOut === undefined) !== (outputBlock === "none"))
    throw new ConfigError(who, `outputBlock is "${outputBlock}"; wOut belongs to "glu", and to it alone`);
  if (residual) expectShape(who, "residual", residual, u.shape);
  if (wOut) expectShape(who, "wOut", wOut, [2 * dim, dim]);
  if (bOut) expectShape(who, "bOut", bOut, [2 * dim]);
  return u.gpu.scope(() => {
    const model = { pole: poles(logAReal, aImag, logDt, { rule: discretization, negative: true }), c };
    const kernel = form === "conv" || returnKernel ? powerSums(c, model.pole, seq) : undefined;
    const steps = form === "recurrent" ? stepped(u, model, state) : undefined;
    const y = steps?.y ?? convolved(u, kernel!, model, state);
    return {
      out: outputOf(y, u, parameters, residual),
      ...(returnState ? { state: steps?.state ?? finalState(u, model.pole, state) } : {}),
      ...(returnKernel ? { kernel: kernel! } : {}),
    };
  });
}

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
