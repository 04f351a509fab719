import { isStoredType } from "../base/dtype.js";
import { ShapeError, ConfigError } from "../base/errors.js";
import type { Gpu } from "../device/gpu.js";
import { randomNormal } from "../random/index.js";
import type { Tensor } from "../tensor/tensor.js";
import { show } from "../base/show.js";
import {
  checkConfig,
  expectDType,
  expectGpu,
  expectIntegers,
  expectRecord,
  showShape,
} from "../base/validate.js";
import { integer, schema, type Config } from "./schema.js";

/** Draws a parameter by a rule of the mechanism; random values come from the given seed and stream. */
export type Draw = (
  gpu: Gpu,
  shape: readonly number[],
  random: { readonly seed: number; readonly stream: number },
) => Tensor;

/** The initial distribution of a parameter: one value everywhere, a normal of mean 0, or a rule of the mechanism. */
export type Initializer = number | { readonly std: number } | Draw;

/** One planned parameter of a component. */
export interface PlannedParameter {
  readonly shape: readonly number[];
  readonly init: Initializer;
  /**
   * "output": writes into the residual stream (o_proj, down_proj); "value": the values' projection and the matrices
   * of a feed-forward block. DeepNorm and Sub-LN scale the initial values of both, GPT-2 those of "output".
   */
  readonly role?: "output" | "value";
  /** A tensor that checkpoints hold and training does not change by gradients (running statistics). */
  readonly buffer?: boolean;
}

/** Shape and initial distribution of every parameter of a component, by name, in a fixed order. */
export type ParameterPlan = Readonly<Record<string, PlannedParameter>>;

/** Parameters by name; the names are the checkpoint's, dotted ("q_proj.weight"). */
export type Parameters = Readonly<Record<string, Tensor>>;

/** Standard deviation of a matrix's initial values where its plan says no other (GPT-2). */
export const MATRIX_STD = 0.02;

/** A matrix [out, in] with normal initial values of standard deviation 0.02. */
export const matrix = (out: number, into: number, role?: PlannedParameter["role"]): PlannedParameter => ({
  shape: [out, into],
  init: { std: MATRIX_STD },
  ...(role === undefined ? {} : { role }),
});
/** A vector of ones. */
export const ones = (n: number): PlannedParameter => ({ shape: [n], init: 1 });
/** A vector of zeros. */
export const zeros = (n: number): PlannedParameter => ({ shape: [n], init: 0 });

/** The plan with every name below a prefix. */
export function prefixed(prefix: string, plan: ParameterPlan): ParameterPlan {
  return Object.fromEntries(Object.entries(plan).map(([name, entry]) => [`${prefix}.${name}`, entry]));
}

const INIT = schema("init", {
  seed: integer("Seed of the random values.", { min: 0, max: 2 ** 32 - 1, default: 0 }),
  stream: integer("First random stream; each parameter of the plan takes one.", { min: 0, default: 0 }),
});

/** How random initial values are drawn. */
export type InitOptions = Config<typeof INIT>;

/** Draws one planned parameter. The caller owns the result. */
export function initParameter(
  gpu: Gpu,
  { shape, init }: PlannedParameter,
  random: { readonly seed: number; readonly stream: number },
): Tensor {
  return gpu.keep(
    typeof init === "function"
      ? gpu.scope(() => init(gpu, shape, random))
      : typeof init === "number"
        ? gpu.full(shape, init)
        : randomNormal(gpu, shape, { ...random, std: init.std }),
  );
}

/** @throws ConfigError naming the parameter whose shape or initial values are none */
function checkPlan(caller: string, plan: ParameterPlan): void {
  expectRecord(caller, "plan", plan);
  for (const [name, entry] of Object.entries(plan)) {
    const who = `${caller}: plan of ${name}`;
    checkConfig(who, entry, ["shape", "init", "role", "buffer"]);
    expectIntegers(who, "shape", entry.shape, 0);
    const init = entry.init as
      Partial<Exclude<Initializer, number | Draw>> | number | Draw | null | undefined;
    const std = typeof init === "object" ? init?.std : init;
    if (typeof init !== "function" && !(typeof std === "number" && Number.isFinite(std)))
      throw new ConfigError(who, `init is ${show(init)}; it must be a number, { std } or a function`);
  }
}

/**
 * Draws all parameters of a plan; parameter n takes the random stream `stream + n`. The caller owns the results.
 *
 * @throws ConfigError
 */
export function initParameters(
  caller: string,
  gpu: Gpu,
  plan: ParameterPlan,
  options: InitOptions = {},
): Record<string, Tensor> {
  expectGpu(caller, gpu);
  checkPlan(caller, plan);
  const { seed, stream } = INIT.read(options, caller);
  const made: Record<string, Tensor> = {};
  try {
    Object.entries(plan).forEach(([name, entry], n) => {
      made[name] = initParameter(gpu, entry, { seed, stream: stream + n });
    });
    return made;
  } catch (error) {
    for (const tensor of Object.values(made)) tensor.dispose();
    throw error;
  }
}

/**
 * Returns the given parameters in the plan's order.
 *
 * @throws ConfigError for a name that is missing or unknown, ShapeError for a shape that is not the plan's, and
 * DTypeError for a dtype that is neither f32 nor f16 nor, of a matrix, a stored form; each names the parameter
 */
export function checkParameters(
  caller: string,
  plan: ParameterPlan,
  given: Parameters,
): Record<string, Tensor> {
  checkPlan(caller, plan);
  checkConfig(caller, given, Object.keys(plan));
  return Object.fromEntries(
    Object.entries(plan).map(([name, { shape }]) => {
      const tensor = given[name];
      if (!tensor)
        throw new ConfigError(
          caller,
          `parameter ${name} is missing; it must have shape ${showShape(shape)} ` +
            `(given: ${Object.keys(given).join(", ") || "none"})`,
        );
      // Products and lookups read matrices as they are stored; other ops of a component refuse such a tensor.
      if (shape.length < 2 || !isStoredType(tensor.dtype))
        expectDType(caller, `parameter ${name}`, tensor, "f32", "f16");
      if (tensor.rank !== shape.length || tensor.shape.some((n, i) => n !== shape[i]))
        throw new ShapeError(
          caller,
          `parameter ${name} has shape ${showShape(tensor.shape)}; it must be ${showShape(shape)}`,
        );
      return [name, tensor];
    }),
  );
}
