import {
  applyOp,
  checkConfig,
  ConfigError,
  defineKernel,
  e,
  elementwise,
  expectBoolean,
  expectDType,
  expectOneOf,
  expectShape,
  grid1d,
  linear,
  type Kernel,
  type Tensor,
} from "@x/kernels";
import { expectTokens } from "../../block/block.js";
import { convolved, stepped } from "./channel_model.js";
import { poles } from "./poles.js";
import { finalState, powerSums } from "./power_sums.js";
import { gateHalves, gateHalvesBackward } from "./s4d.wgsl.js";

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
