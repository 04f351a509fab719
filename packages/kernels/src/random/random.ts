import { flatMain } from "../kernel/flat_grid.js";
import { runFlat } from "../kernel/flat_run.js";
import { ConfigError, DTypeError } from "../base/errors.js";
import type { Gpu } from "../device/gpu.js";
import { defineKernel, grid1d } from "../kernel/kernel.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  checkConfig,
  expectGpu,
  expectFloat,
  expectInteger,
  expectIntegers,
  expectNumber,
  expectShape,
  expectTensor,
  sizeOf,
} from "../base/validate.js";
import { philox } from "./philox.wgsl.js";

/** Which numbers: equal options give equal numbers, on every adapter and in every order of calls. */
export interface RandomOptions {
  /** Integer in 0..2^53-1. */
  readonly seed: number;
  /** Tells uses of one seed apart (a layer, a parameter); integer in 0..2^32-1, default 0. */
  readonly stream?: number;
  /**
   * u32 [1] on the GPU that tells steps apart, so that a recording draws new numbers at each replay. Inside a recording
   * it must be given.
   */
  readonly step?: Tensor | undefined;
}

const MAX_U32 = 2 ** 32 - 1;

/** Seed, stream and step as kernel parameters. @internal */
export function randomParameters(
  who: string,
  options: RandomOptions,
): Record<"seed_low" | "seed_high" | "stream", number> {
  const { seed, stream = 0, step } = options;
  expectInteger(who, "seed", seed, 0, Number.MAX_SAFE_INTEGER);
  expectInteger(who, "stream", stream, 0, MAX_U32);
  if (step !== undefined) {
    expectShape(who, "step", step, [1]);
    if (step.dtype !== "u32") throw new DTypeError(who, `step is ${step.dtype}; it must be u32`);
  }
  return { seed_low: seed % 2 ** 32, seed_high: Math.floor(seed / 2 ** 32), stream };
}

/** Refuse to draw inside a recording what each replay would draw again. @throws ConfigError @internal */
export function expectFreshDraws(who: string, gpu: Gpu, step: Tensor | undefined): void {
  if (gpu.recording && step === undefined)
    throw new ConfigError(
      who,
      "was called inside a recording without step: every replay would draw the same numbers; give step, a u32 [1] tensor from outside, and write a new number into it before each replay (or draw before the recording)",
    );
}

interface RandomVariant {
  readonly distribution: "uniform" | "normal";
  readonly step: boolean;
}

const stepBinding = (present: boolean): { readonly step?: "read u32" } =>
  present ? { step: "read u32" } : {};
const draw = (i: string, step: boolean): string =>
  `philox(vec4u(${i}, 0u, ${step ? "step[0]" : "0u"}, params.stream), vec2u(params.seed_low, params.seed_high))`;
const seeds = { seed_low: "u32", seed_high: "u32", stream: "u32", count: "u32" } as const;

const randomKernel = defineKernel({
  name: "random",
  bindings: (v: RandomVariant) => ({ out: "write vec4<f32>", ...stepBinding(v.step) }),
  params: { ...seeds, low: "f32", scale: "f32", first: "u32" },
  wgsl: (v, { params }) => /* wgsl */ `
${philox}
${flatMain("i", params.count)}
  let r = ${draw(`i + ${params.first}`, v.step)};
  let u = vec4f(unit(r.x), unit(r.y), unit(r.z), unit(r.w));
  ${
    v.distribution === "uniform"
      ? "out[i] = params.low + params.scale * u;"
      : // Box and Muller (1958): two normals from two uniforms, the first in (0, 1].
        `let radius = sqrt(-2.0 * log(vec2f(1.0) - u.xz));
  let angle = 6.283185307179586 * u.yw;
  out[i] = params.low + params.scale * vec4f(radius.x * cos(angle.x), radius.x * sin(angle.x), radius.y * cos(angle.y), radius.y * sin(angle.y));`
  }
}`,
});

const DRAW = ["seed", "stream", "step"];

function checkDraw(
  who: string,
  gpu: unknown,
  shape: unknown,
  options: unknown,
  own: readonly string[],
): void {
  expectGpu(who, gpu);
  expectIntegers(who, "shape", shape, 0);
  checkConfig(who, options, [...own, ...DRAW]);
}

function fill(
  who: string,
  gpu: Gpu,
  shape: readonly number[],
  options: RandomOptions,
  distribution: "uniform" | "normal",
  low: number,
  scale: number,
): Tensor {
  const own = randomParameters(who, options);
  expectFreshDraws(who, gpu, options.step);
  const out = gpu.empty(shape);
  runFlat(gpu, randomKernel, {
    variant: { distribution, step: options.step !== undefined },
    flat: { out },
    bindings: { step: options.step },
    params: { ...own, low, scale },
    count: Math.ceil(sizeOf(shape) / 4),
    lanes: 4,
    first: "first",
  });
  return out;
}

/** Numbers uniform in [low, high), f32. @throws ConfigError, also inside a recording without `step`; ShapeError, DTypeError */
export function randomUniform(
  gpu: Gpu,
  shape: readonly number[],
  options: RandomOptions & { low?: number; high?: number },
): Tensor {
  checkDraw("randomUniform", gpu, shape, options, ["low", "high"]);
  const { low = 0, high = 1 } = options;
  expectNumber("randomUniform", "low", low);
  expectNumber("randomUniform", "high", high, low);
  return fill("randomUniform", gpu, shape, options, "uniform", low, high - low);
}

/** Normal numbers, f32. @throws ConfigError, also inside a recording without `step`; ShapeError, DTypeError */
export function randomNormal(
  gpu: Gpu,
  shape: readonly number[],
  options: RandomOptions & { mean?: number; std?: number },
): Tensor {
  checkDraw("randomNormal", gpu, shape, options, ["mean", "std"]);
  const { mean = 0, std = 1 } = options;
  expectNumber("randomNormal", "mean", mean);
  expectNumber("randomNormal", "std", std, 0);
  return fill("randomNormal", gpu, shape, options, "normal", mean, std);
}

interface DropoutVariant {
  readonly dtype: string;
  readonly step: boolean;
}

const dropoutKernel = defineKernel({
  name: "dropout",
  bindings: (v: DropoutVariant) => ({
    x: `read vec4<${v.dtype}>`,
    out: `write vec4<${v.dtype}>`,
    ...stepBinding(v.step),
  }),
  params: { ...seeds, p: "f32" },
  wgsl: (v, { params }) => /* wgsl */ `
${philox}
${flatMain("i", params.count)}
  let r = ${draw("i", v.step)};
  let u = vec4f(unit(r.x), unit(r.y), unit(r.z), unit(r.w));
  out[i] = vec4<${v.dtype}>(select(vec4f(), vec4f(x[i]) / (1.0 - params.p), u >= vec4f(params.p)));
}`,
});

/**
 * Dropout: each element is 0 with probability p, else x / (1 - p) (Srivastava et al. 2014). The mask is drawn again
 * in the backward, not kept.
 *
 * @throws ConfigError, also inside a recording without `step`; DTypeError
 */
export function dropout(x: Tensor, p: number, options: RandomOptions): Tensor {
  const who = "dropout";
  expectTensor(who, "x", x);
  checkConfig(who, options, DRAW);
  expectNumber(who, "p", p, 0, 1);
  if (p === 1) throw new ConfigError(who, "p is 1; it must be below 1");
  expectFloat(who, "x", x);
  const own = randomParameters(who, options);
  if (p > 0) expectFreshDraws(who, x.gpu, options.step);
  const run = (t: Tensor): Tensor => {
    const out = t.gpu.empty(t.shape, t.dtype);
    const count = Math.ceil(t.size / 4);
    t.gpu.run(dropoutKernel, {
      variant: { dtype: t.dtype, step: options.step !== undefined },
      bindings: { x: t, out, step: options.step },
      params: { ...own, count, p },
      workgroups: grid1d(Math.ceil(count / 64)),
    });
    return out;
  };
  return applyOp({
    name: who,
    inputs: [x],
    forward: () => ({ outputs: [p === 0 ? x.alias(x.shape) : run(x)] }),
    backward: ({ grads }) => [p === 0 ? grads[0] : run(grads[0]!)],
  })[0]!;
}
