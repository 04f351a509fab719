import {
  checkConfig,
  ConfigError,
  expectDType,
  randomNormal,
  showShape,
  type Gpu,
  type Tensor,
} from "@x/kernels";

/** One parameter of a component: its shape, and how it starts. */
export interface ParameterPlan {
  readonly shape: readonly number[];
  /** Normal of the given standard deviation, one number everywhere, or drawn by a rule of the mechanism's own. */
  readonly init: "normal" | number | Draw;
}

/** Makes a parameter of a shape; random numbers come from the seed and stream given. */
export type Draw = (
  gpu: Gpu,
  shape: readonly number[],
  random: { readonly seed: number; readonly stream: number },
) => Tensor;

/** Parameters by name. */
export type Plan = Readonly<Record<string, ParameterPlan>>;

export interface InitOptions {
  readonly seed: number;
  /** First random stream; a component takes one for each parameter. Default 0. */
  readonly stream?: number;
  /** Standard deviation of matrices; default 0.02. */
  readonly std?: number;
}

export const matrix = (out: number, into: number): ParameterPlan => ({ shape: [out, into], init: "normal" });
export const ones = (n: number): ParameterPlan => ({ shape: [n], init: 1 });
export const zeros = (n: number): ParameterPlan => ({ shape: [n], init: 0 });

/** The plan under a prefix. */
export function under(prefix: string, plan: Plan): Plan {
  return Object.fromEntries(Object.entries(plan).map(([name, entry]) => [`${prefix}.${name}`, entry]));
}

/** Draw the parameters of a plan. */
export function initParameters(
  who: string,
  gpu: Gpu,
  plan: Plan,
  options: InitOptions,
): Record<string, Tensor> {
  checkConfig(who, options, ["seed", "stream", "std"]);
  const { seed, stream = 0, std = 0.02 } = options;
  return Object.fromEntries(
    Object.entries(plan).map(([name, { shape, init }], i) => [
      name,
      gpu.keep(
        typeof init === "function"
          ? gpu.scope(() => init(gpu, shape, { seed, stream: stream + i }))
          : init === "normal"
            ? randomNormal(gpu, shape, { seed, stream: stream + i, std })
            : gpu.full(shape, init),
      ),
    ]),
  );
}

/** The given parameters, if they are those of the plan. @throws ConfigError, DTypeError naming the first that is not. */
export function checkParameters(
  who: string,
  plan: Plan,
  given: Readonly<Record<string, Tensor>>,
): Record<string, Tensor> {
  checkConfig(who, given, Object.keys(plan));
  return Object.fromEntries(
    Object.entries(plan).map(([name, { shape }]) => {
      const tensor = given[name];
      if (!tensor)
        throw new ConfigError(who, `parameter ${name} is missing; it must have shape ${showShape(shape)}`);
      if (tensor.rank !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
        throw new ConfigError(
          who,
          `parameter ${name} has shape ${showShape(tensor.shape)}; it must be ${showShape(shape)}`,
        );
      }
      expectDType(who, `parameter ${name}`, tensor, "f32", "f16");
      return [name, tensor];
    }),
  );
}
