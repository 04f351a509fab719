import {
  ConfigError,
  randomNormal,
  takeParameter,
  type Draw,
  type ParameterPlan,
  type Tensor,
} from "@x/kernels";
import type { ModelConfig } from "../config/index.js";
import type { Weights } from "./contract.js";

/** Deviation of initial weights. */
export const STD = 0.02;
/** Output projections shrink with depth (GPT-2). */
export const outStd = (model: ModelConfig): number => STD / Math.sqrt(2 * model.layers.length);

/** The random stream of a parameter: FNV-1a of its name. */
export function streamOf(name: string): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(name)) h = Math.imul(h ^ byte, 0x01000193);
  return h >>> 0;
}

/** @throws ConfigError if a checkpoint's tensor is not of the shape that the configuration says. */
function checkParameter(name: string, tensor: Tensor, shape: readonly number[]): Tensor {
  if (tensor.rank !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
    throw new ConfigError(
      "CausalLM",
      `${name} has shape [${tensor.shape.join(", ")}]; the configuration says [${shape.join(", ")}]`,
    );
  }
  return tensor;
}

/** What a set of parameters needs to know; without a gain, none is applied. */
type PartWeights = Omit<Weights, "encoding" | "components" | "gain"> & { readonly gain?: number };

/** A part's tensors: each taken from the checkpoint, its shape checked, or made. */
export class ParameterSet {
  readonly #weights: PartWeights;
  readonly #all: Record<string, Tensor> = {};

  constructor(weights: PartWeights) {
    this.#weights = weights;
  }

  /** Normal numbers of a deviation, from a stream of the parameter's own. */
  normal(name: string, shape: readonly number[], std: number = STD): Tensor {
    const { gpu, seed } = this.#weights;
    const stream = streamOf(`${this.#weights.name}.${name}`);
    return this.#take(name, shape, () => randomNormal(gpu, shape, { seed, stream, std }));
  }

  constant(name: string, shape: readonly number[], value: number): Tensor {
    return this.#take(name, shape, () => this.#weights.gpu.full(shape, value));
  }

  /** Drawn by a mechanism's own rule. */
  drawn(name: string, shape: readonly number[], draw: Draw): Tensor {
    const { gpu, seed } = this.#weights;
    const stream = streamOf(`${this.#weights.name}.${name}`);
    return this.#take(name, shape, () => gpu.scope(() => draw(gpu, shape, { seed, stream })));
  }

  /** Numbers from the host. */
  values(name: string, shape: readonly number[], data: () => ArrayLike<number>): Tensor {
    return this.#take(name, shape, () => this.#weights.gpu.tensor(data(), shape));
  }

  #take(name: string, shape: readonly number[], make: () => Tensor): Tensor {
    const { gpu, given, missing, name: part, made } = this.#weights;
    let tensor: Tensor;
    if (given && !given[name] && missing) throw missing(`${part}.${name}`);
    if (given) tensor = checkParameter(`${part}.${name}`, takeParameter(part, given, name), shape);
    else made.push((tensor = gpu.keep(make())));
    this.#all[name] = tensor;
    return tensor;
  }

  /**
   * The parameters and buffers of a component's plan. Matrices that write into the residual stream shrink with depth
   * (GPT-2); they and those of values take the layer's gain (DeepNorm, Sub-LN).
   */
  planned(plan: ParameterPlan): Record<string, Tensor> {
    const { model, gain } = this.#weights;
    return Object.fromEntries(
      Object.entries(plan).map(([name, { shape, init, role }]) => {
        if (typeof init === "function") return [name, this.drawn(name, shape, init)];
        if (typeof init === "number") return [name, this.constant(name, shape, init)];
        const std = role === "output" ? (init.std * outStd(model)) / STD : init.std;
        return [name, this.normal(name, shape, role === undefined ? std : std * (gain ?? 1))];
      }),
    );
  }

  all(): Record<string, Tensor> {
    return { ...this.#all };
  }
}

/** Number of weights of a part. */
export const countParameters = (parameters: Readonly<Record<string, Tensor>>): number =>
  Object.values(parameters).reduce((n, t) => n + t.size, 0);
