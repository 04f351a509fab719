import { applyOp, defineKernel, grid1d, sumMiddle, type Kernel, type Tensor } from "@x/kernels";
import { complexWgsl } from "./complex.wgsl.js";

/**
 * How parameters become a discrete pole a and the factor f of what enters the state, x_t = a x_{t-1} + f v_t. With
 * A = re + i im (re = -exp(given) if `negative`) and dt = rescale exp(logDt):
 *
 *   zoh       a = exp(dt A), f = (a - 1) / A
 *   bilinear  a = (1 + dt A / 2) / (1 - dt A / 2), f = dt / (1 - dt A / 2)
 *   discrete  a = exp(-exp(re) + i exp(im)), f = exp(logDt)
 */
export type PoleRule = "zoh" | "bilinear" | "discrete";

export interface PoleOptions {
  readonly rule: PoleRule;
  /** The real part is -exp(re). */
  readonly negative?: boolean;
  /** Larger real parts are taken as this one, without gradient. */
  readonly clip?: number | undefined;
  /** Factor of dt. */
  readonly rescale?: number;
}

interface PoleVariant {
  readonly rule: PoleRule;
  readonly negative: boolean;
  readonly clip: boolean;
}

const params = { count: "u32", per: "u32", rescale: "f32", clip: "f32" } as const;

const TERMS = 12;
const inverseFactorials = Array.from({ length: TERMS }, (_, k) => {
  let factorial = 1;
  for (let n = 2; n <= k + 1; n++) factorial *= n;
  return `${1 / factorial}f`;
});

/** What forward and backward share: the continuous pole and the step of one element. */
const common = (v: PoleVariant): string => /* wgsl */ `
${complexWgsl}
const INVERSE_FACTORIALS = array<f32, ${TERMS}>(${inverseFactorials.join(", ")});
struct Phi { value: vec2f, slope: vec2f }

// phi(z) = (e^z - 1) / z and phi'(z); near 0 by their series, where the difference would lose its digits.
fn phi(z: vec2f, exponential: vec2f) -> Phi {
  if (dot(z, z) < 1.0) {
    var value = vec2f();
    var slope = vec2f();
    for (var k = ${TERMS - 1}; k >= 0; k--) {
      slope = cmul(slope, z) + value;
      value = cmul(value, z) + vec2f(INVERSE_FACTORIALS[k], 0.0);
    }
    return Phi(value, slope);
  }
  let value = cdiv(exponential - vec2f(1.0, 0.0), z);
  return Phi(value, cdiv(exponential - value, z));
}

// (ln |a|, turns) of a = (1 + h) / (1 - h): tanh(ln |a|) = 2 x / (1 + |h|^2) and arg a = atan2(2 y, 1 - |h|^2), both
// brought to full precision by one step of Newton.
fn bilinear_pole(h: vec2f) -> vec2f {
  let s = dot(h, h);
  let t = 2.0 * h.x / (1.0 + s);
  let q = t * t;
  var log_abs = fma(t * q, fma(q, fma(q, fma(q, fma(q, 1.0 / 11.0, 1.0 / 9.0), 1.0 / 7.0), 0.2), 1.0 / 3.0), t);
  if (abs(t) > 0.2) {
    let ratio = (1.0 + t) / (1.0 - t);
    let rough = log(ratio);
    log_abs = 0.5 * (rough + (ratio * exp_(-rough) - 1.0));
  }
  let to = vec2f(1.0 - s, 2.0 * h.y);
  let rough = atan2(to.y, to.x) * 0.15915494309189535;
  let off = cmul(to, conj(turn(rough)));
  return vec2f(log_abs, rough + off.y / length(to) * 0.15915494309189535);
}

fn continuous(i: u32) -> vec2f {
  let x = ${v.negative ? "-exp_(re[i])" : "re[i]"};
  return vec2f(${v.clip ? "min(x, params.clip)" : "x"}, im[i]);
}
fn step(i: u32) -> f32 { return params.rescale * exp_(log_dt[i / params.per]); }
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= params.count) { return; }`;

const TURNS = "0.15915494309189535";

const forwardKernel: Kernel<PoleVariant> = defineKernel({
  name: "poles",
  bindings: { re: "read f32", im: "read f32", log_dt: "read f32", out: "write vec4f" },
  params,
  wgsl: (v) => /* wgsl */ `
${common(v)}
  ${
    v.rule === "discrete"
      ? `out[i] = vec4f(-exp_(re[i]), exp_(im[i]) * ${TURNS}, step(i), 0.0);`
      : `let a = continuous(i);
  let dt = step(i);
  let z = dt * a;
  ${
    v.rule === "zoh"
      ? `out[i] = vec4f(z.x, dt * (a.y * ${TURNS}), dt * phi(z, exp_(z.x) * turn(dt * (a.y * ${TURNS}) - round(dt * (a.y * ${TURNS})))).value);`
      : `out[i] = vec4f(bilinear_pole(0.5 * z), dt * cdiv(vec2f(1.0, 0.0), vec2f(1.0, 0.0) - 0.5 * z));`
  }`
  }
}`,
});

/** The conjugate derivatives of (ln a, f) by A and dt, applied to their gradients. */
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
  wgsl: (v) => /* wgsl */ `
${common(v)}
  let g_pole = vec2f(grad[i].x, grad[i].y * ${TURNS});
  let g_factor = grad[i].zw;
  ${
    v.rule === "discrete"
      ? `d_re[i] = -exp_(re[i]) * g_pole.x;
  d_im[i] = exp_(im[i]) * g_pole.y;
  d_log_dt[i] = step(i) * g_factor.x;`
      : `let a = continuous(i);
  let dt = step(i);
  let z = dt * a;
  ${
    v.rule === "zoh"
      ? `let turns = dt * (a.y * ${TURNS});
  let e = exp_(z.x) * turn(turns - round(turns));
  let g_z = g_pole;
  let by_a = dt * dt * phi(z, e).slope;
  let by_dt = e;`
      : `let w = cdiv(vec2f(1.0, 0.0), vec2f(1.0, 0.0) - 0.5 * z);
  let g_z = cmul(conj(cdiv(w, vec2f(1.0, 0.0) + 0.5 * z)), g_pole);
  let by_dt = cmul(w, w);
  let by_a = 0.5 * dt * dt * by_dt;`
  }
  let g_a = dt * g_z + cmul(conj(by_a), g_factor);
  d_re[i] = g_a.x${v.negative ? " * a.x" : ""}${v.clip ? " * select(0.0, 1.0, re[i] <= params.clip)" : ""};
  d_im[i] = g_a.y;
  d_log_dt[i] = dt * (dot(a, g_z) + dot(by_dt, g_factor));`
  }
}`,
});

/**
 * Discrete poles of a diagonal state space model: [.., 4] = (ln |a|, arg a in turns, re f, im f), f32.
 *
 * `re`, `im` [..]; `logDt` of the same shape, or without the last axis, which then shares it.
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
