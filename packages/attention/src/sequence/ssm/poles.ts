import { applyOp, defineKernel, grid1d, sumMiddle, type Kernel, type Tensor } from "@x/kernels";
import { polesBackward, polesForward, type PoleRule, type PoleVariant } from "./poles.wgsl.js";

export interface PoleOptions {
  readonly rule: PoleRule;
  /** The real part is -exp(re). */
  readonly negative?: boolean;
  /** Larger real parts are taken as this one, without gradient. */
  readonly clip?: number | undefined;
  /** Factor of dt. */
  readonly rescale?: number;
}

const params = { count: "u32", per: "u32", rescale: "f32", clip: "f32" } as const;

const forwardKernel: Kernel<PoleVariant> = defineKernel({
  name: "poles",
  bindings: { re: "read f32", im: "read f32", log_dt: "read f32", out: "write vec4u" },
  params,
  wgsl: polesForward,
});

const backwardKernel: Kernel<PoleVariant> = defineKernel({
  name: "polesBackward",
  bindings: {
    re: "read f32",
    im: "read f32",
    log_dt: "read f32",
    grad: "read vec4f",
    d_re: "write f32",
    d_im: "write f32",
    d_log_dt: "write f32",
  },
  params,
  wgsl: polesBackward,
});

/**
 * Poles a of the steps of a diagonal state space model, and the factor f of what enters the state, x_t = a x_{t-1} +
 * f v_t. With A = re + i im (re = -exp(given) if `negative`) and dt = rescale exp(logDt):
 *
 *   zoh       a = exp(dt A), f = (a - 1) / A
 *   bilinear  a = (1 + dt A / 2) / (1 - dt A / 2), f = dt / (1 - dt A / 2)
 *   discrete  a = exp(-exp(re) + i exp(im)), f = exp(logDt)
 *
 * `re`, `im` [..]; `logDt` of the same shape, or without the last axis, which then shares it. Result [.., 4] for kernels
 * alone: the bits of ln |a|, arg a as an integer in 2^-32 turns, the bits of f; its gradient is that of (ln |a|, turns,
 * re f, im f) as numbers.
 */
export function poles(re: Tensor, im: Tensor, logDt: Tensor, options: PoleOptions): Tensor {
  const { gpu } = re;
  const { rule, negative = false, clip, rescale = 1 } = options;
  const per = logDt.size === 0 ? 1 : re.size / logDt.size;
  const call = {
    variant: { rule, negative, clip: clip !== undefined },
    params: { count: re.size, per, rescale, clip: clip ?? 0 },
    workgroups: grid1d(Math.ceil(re.size / 64)),
  };
  return applyOp({
    name: "poles",
    inputs: [re, im, logDt],
    forward: () => {
      const out = gpu.empty([...re.shape, 4]);
      gpu.run(forwardKernel, { ...call, bindings: { re, im, log_dt: logDt, out } });
      return { outputs: [out] };
    },
    backward: ({ grads }) => {
      const [d_re, d_im, each] = [gpu.empty(re.shape), gpu.empty(re.shape), gpu.empty(re.shape)];
      gpu.run(backwardKernel, {
        ...call,
        bindings: { re, im, log_dt: logDt, grad: grads[0]!, d_re, d_im, d_log_dt: each },
      });
      return [d_re, d_im, per === 1 ? each : sumMiddle(each, logDt.size, per, 1).alias(logDt.shape)];
    },
  })[0]!;
}
