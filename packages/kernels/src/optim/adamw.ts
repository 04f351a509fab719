import { flatMain } from "../kernel/flat_grid.js";
import { runFlat } from "../kernel/flat_run.js";
import { ConfigError, ShapeError } from "../base/errors.js";
import type { Gpu } from "../device/gpu.js";
import { defineKernel } from "../kernel/kernel.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  checkConfig,
  expectDType,
  expectFunction,
  expectInteger,
  expectList,
  expectNumber,
  expectRecord,
  expectShape,
  showShape,
} from "../base/validate.js";
import { show } from "../base/show.js";

export interface AdamWOptions {
  readonly learningRate: number;
  /** Decay of the first and second moment; default [0.9, 0.999]. */
  readonly betas?: readonly [number, number];
  /** Default 1e-8. */
  readonly eps?: number;
  /** Decoupled weight decay, times the learning rate; default 0.01. */
  readonly weightDecay?: number;
  /** Which parameters decay; default: those with two axes or more (matrices, not norms and biases). */
  readonly decays?: (name: string, parameter: Tensor) => boolean;
}

export interface StepOptions {
  /** Overrides the learning rate of this step: what a schedule gives. */
  readonly learningRate?: number;
  /** f32 scalar that multiplies every gradient: what `clipGradNorm` gives. */
  readonly scale?: Tensor | undefined;
}

/** hyper: learning rate, 1 / (1 - beta1^t), 1 / (1 - beta2^t). Moments and parameter in one pass. */
const adamwKernel = defineKernel({
  name: "adamw",
  bindings: (v: { scale: boolean }) => ({
    parameter: "read_write vec4<f32>",
    m: "read_write vec4<f32>",
    v: "read_write vec4<f32>",
    grad: "read vec4<f32>",
    hyper: "read f32",
    ...(v.scale ? { scale: "read f32" } : {}),
  }),
  params: { count: "u32", beta1: "f32", beta2: "f32", eps: "f32", decay: "f32" },
  wgsl: (v, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  let rate = hyper[0];
  let g = grad[i]${v.scale ? " * scale[0]" : ""};
  let m_i = params.beta1 * m[i] + (1.0 - params.beta1) * g;
  let v_i = params.beta2 * v[i] + (1.0 - params.beta2) * g * g;
  m[i] = m_i;
  v[i] = v_i;
  let step = m_i * hyper[1] / (sqrt(v_i * hyper[2]) + params.eps);
  parameter[i] = parameter[i] * (1.0 - rate * params.decay) - rate * step;
}`,
});

/**
 * AdamW (Loshchilov and Hutter 2019, algorithm 2), in place and fused:
 * m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2; p -= lr (m^ / (sqrt(v^) + eps) + decay p), with m^, v^ corrected
 * for their start at zero.
 *
 * What changes from step to step lies in a tensor, so `update` may be recorded and replayed; call `advance` before
 * each. `step` does both.
 */
export class AdamW {
  readonly #gpu: Gpu;
  readonly #parameters: Readonly<Record<string, Tensor>>;
  readonly #options: Required<Omit<AdamWOptions, "decays">>;
  readonly #decays: (name: string, parameter: Tensor) => boolean;
  readonly #moments: Record<string, { readonly m: Tensor; readonly v: Tensor }> = {};
  readonly #hyper: Tensor;
  #count = 0;

  /** @throws ConfigError, DTypeError */
  constructor(parameters: Readonly<Record<string, Tensor>>, options: AdamWOptions) {
    const who = "AdamW";
    expectRecord(who, "parameters", parameters);
    checkConfig(who, options, ["learningRate", "betas", "eps", "weightDecay", "decays"]);
    const { learningRate, betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0.01 } = options;
    expectNumber(who, "learningRate", learningRate, 0);
    expectList(who, "betas", betas, "two numbers");
    const moments: number = betas.length;
    if (moments !== 2) throw new ConfigError(who, `betas hold ${moments} numbers; they must be two`);
    for (const beta of betas) expectNumber(who, "betas", beta, 0, 1 - Number.EPSILON);
    expectNumber(who, "eps", eps, 0);
    expectNumber(who, "weightDecay", weightDecay, 0);
    const { decays = (_: string, parameter: Tensor): boolean => parameter.rank >= 2 } = options;
    expectFunction(who, "decays", decays);
    for (const [name, parameter] of Object.entries(parameters))
      expectDType(who, `parameter ${name}`, parameter, "f32");
    const first = Object.values(parameters)[0];
    if (!first) throw new ConfigError(who, "was given no parameters");
    this.#gpu = first.gpu;
    this.#parameters = parameters;
    this.#options = { learningRate, betas, eps, weightDecay };
    this.#decays = decays;
    for (const [name, parameter] of Object.entries(parameters)) {
      this.#moments[name] = {
        m: this.#gpu.keep(this.#gpu.zeros(parameter.shape)),
        v: this.#gpu.keep(this.#gpu.zeros(parameter.shape)),
      };
    }
    this.#hyper = this.#gpu.keep(this.#gpu.zeros([3]));
  }

  /** Steps taken. */
  get count(): number {
    return this.#count;
  }

  /** Count one step and write its learning rate and corrections. @throws ConfigError */
  advance(learningRate: number = this.#options.learningRate): void {
    if (this.#gpu.recording)
      throw new ConfigError(
        "AdamW",
        "a recording would freeze the learning rate and the step's corrections; record update(), and call advance() before each replay",
      );
    expectNumber("AdamW.advance", "learningRate", learningRate, 0);
    const [beta1, beta2] = this.#options.betas;
    this.#count++;
    this.#hyper.write([learningRate, 1 / (1 - beta1 ** this.#count), 1 / (1 - beta2 ** this.#count)]);
  }

  #check(grads: Readonly<Record<string, Tensor>>, scale: Tensor | undefined): void {
    const who = "AdamW";
    expectRecord(who, "grads", grads);
    for (const [name, grad] of Object.entries(grads)) {
      if (!Object.hasOwn(this.#parameters, name))
        throw new ConfigError(
          who,
          `gradient ${name} belongs to no parameter; names must be those of the parameters that it was made with`,
        );
      expectShape(who, `gradient ${name}`, grad, this.#parameters[name]!.shape);
      expectDType(who, `gradient ${name}`, grad, "f32");
    }
    if (scale === undefined) return;
    expectDType(who, "scale", scale, "f32");
    if (scale.size !== 1)
      throw new ShapeError(who, `scale has shape ${showShape(scale.shape)}; it must have one element`);
  }

  /**
   * Queue the update; gradients by parameter name. Parameters without a gradient stay.
   *
   * @throws ConfigError, ShapeError, DTypeError, each before anything is changed
   */
  update(grads: Readonly<Record<string, Tensor>>, scale?: Tensor): void {
    this.#check(grads, scale);
    const { betas, eps, weightDecay } = this.#options;
    for (const [name, grad] of Object.entries(grads)) {
      const parameter = this.#parameters[name]!;
      const moments = this.#moments[name]!;
      runFlat(this.#gpu, adamwKernel, {
        variant: { scale: scale !== undefined },
        flat: { parameter, ...moments, grad },
        bindings: { hyper: this.#hyper, scale },
        params: {
          beta1: betas[0],
          beta2: betas[1],
          eps,
          decay: this.#decays(name, parameter) ? weightDecay : 0,
        },
        count: Math.ceil(parameter.size / 4),
        lanes: 4,
      });
    }
  }

  /** One step: advance, then update. */
  step(grads: Readonly<Record<string, Tensor>>, options: StepOptions = {}): void {
    checkConfig("AdamW.step", options, ["learningRate", "scale"]);
    this.#check(grads, options.scale);
    this.advance(options.learningRate);
    this.update(grads, options.scale);
  }

  /** The moments by name ("m.weight", "v.weight"), to be saved; they stay the optimizer's. */
  state(): Record<string, Tensor> {
    return Object.fromEntries(
      Object.entries(this.#moments).flatMap(([name, { m, v }]) => [
        [`m.${name}`, m],
        [`v.${name}`, v],
      ]),
    );
  }

  /**
   * Continue from saved moments and the number of steps taken.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  restore(state: Readonly<Record<string, ArrayLike<number>>>, count: number): void {
    const who = "AdamW.restore";
    const own = this.state();
    checkConfig(who, state, Object.keys(own));
    expectInteger(who, "count", count, 0);
    for (const [name, tensor] of Object.entries(own)) {
      const saved = state[name];
      if (saved === undefined) throw new ConfigError(who, `${name} is missing`);
      if (!Array.isArray(saved) && !ArrayBuffer.isView(saved))
        throw new ConfigError(who, `${name} is ${show(saved)}; it must be an array of numbers`);
      if (saved.length !== tensor.size)
        throw new ShapeError(who, `${name} holds ${saved.length} numbers; it must hold ${tensor.size}`);
    }
    for (const [name, tensor] of Object.entries(own)) tensor.write(state[name]!);
    this.#count = count;
  }

  dispose(): void {
    for (const { m, v } of Object.values(this.#moments)) {
      m.dispose();
      v.dispose();
    }
    this.#hyper.dispose();
  }
}
