import type { DType } from "../base/dtype.js";
import type { Gpu } from "../device/gpu.js";
import { namedParameters, type Module } from "./module.js";
import type { Tensor } from "../tensor/tensor.js";
import { expectFunction, expectGpu, expectObject } from "../base/validate.js";
import {
  checkParameters,
  initParameters,
  type InitOptions,
  type ParameterPlan,
  type Parameters,
} from "./parameters.js";
import type { Config, Resolved, Schema } from "./schema.js";

/** What a stateful component keeps from token to token while it decodes. */
export interface State {
  /** Bytes on the GPU. */
  readonly bytes: number;
  /** Bytes that each further token takes in every batch row; 0 where the size is fixed. */
  readonly bytesPerToken: number;
  /** Whether a call depends on a count that the host keeps, so that a recorded call cannot be run again; default: not. */
  readonly countsOnHost?: boolean;
  /** Forgets all tokens; the next call starts at position 0. */
  clear(): void;
  dispose(): void;
}

/** The size of a state. */
export interface StateOptions {
  /** Number of sequences. */
  readonly batch: number;
  /** Longest sequence in tokens; states of a fixed size ignore nothing and need none. */
  readonly maxLength?: number | undefined;
  /** Most tokens of one call; a ring has room for them beside its window. */
  readonly maxChunk?: number | undefined;
  /** Storage type of keys and values; default "f32". */
  readonly dtype?: Extract<DType, "f32" | "f16"> | undefined;
}

/** A component that can be called piece by piece: pieces with a state equal the whole sequence at once. */
export interface Stateful<S extends State = State> {
  /** Makes an empty state, which the caller disposes. @throws ConfigError, OutOfMemoryError */
  createState(options: StateOptions): S;
}

/** The static side of a component: what a configuration means, before any parameter exists. */
export interface ComponentClass<C, Given, Parts> {
  readonly schema: { readonly name: string };
  /** Name, shape and initial distribution of every parameter. @throws ConfigError */
  plan(config: Given): ParameterPlan;
  new (config: Given, parameters: Parameters, parts?: Parts): C;
}

/** A component that another one calls. */
export interface ComponentPart extends Module {
  buffers?(): Record<string, Tensor>;
}

/** Who speaks of a class that lacks what a component must declare. */
const BASE = "Component";

/**
 * Base of all components: a configuration, checked and with its defaults filled in, and the named parameters that the
 * class's `plan` says. A subclass declares `static schema`, `static plan(config)` and its forward pass:
 *
 * ```ts
 * export class RMSNorm extends Component<typeof RMSNORM> {
 *   static readonly schema = RMSNORM;
 *   static plan(config: RMSNormConfig): ParameterPlan {
 *     return { weight: ones(RMSNORM.read(config).dim) };
 *   }
 *   constructor(config: RMSNormConfig, parameters: Parameters) {
 *     super(RMSNORM, config, RMSNorm.plan(config), parameters);
 *   }
 *   forward(x: Tensor): Tensor {
 *     return rmsNorm(x, { weight: this.weights["weight"], eps: this.config.eps });
 *   }
 * }
 * ```
 */
export abstract class Component<S extends Schema> implements Module {
  readonly config: Resolved<S>;
  /** Parameters and buffers by their planned names. */
  protected readonly weights: Parameters;
  readonly #plan: ParameterPlan;
  readonly #parts: Readonly<Record<string, ComponentPart | undefined>>;
  readonly #owned: { dispose(): void }[] = [];

  /**
   * @param parts components that this one calls (the norm of its queries), under the names that checkpoints give them;
   * their parameters and buffers are counted with this component's, and they stay their maker's to dispose
   * @throws ConfigError, ShapeError and DTypeError, each naming the first key or parameter that is not as planned
   */
  constructor(
    schema: S,
    config: Config<S>,
    plan: ParameterPlan,
    parameters: Parameters,
    parts: Readonly<Record<string, ComponentPart | undefined>> = {},
  ) {
    expectObject(BASE, "schema", schema);
    expectFunction(BASE, "schema.read", Reflect.get(schema, "read"));
    this.config = schema.read(config) as Resolved<S>;
    this.weights = checkParameters(schema.name, plan, parameters);
    this.#plan = plan;
    this.#parts = parts;
  }

  /**
   * Draws the parameters that the plan says and makes the component, which then owns them.
   *
   * @param parts what the constructor takes besides configuration and parameters
   * @throws ConfigError
   */
  static init<C, Given, Parts>(
    this: ComponentClass<C, Given, Parts>,
    gpu: Gpu,
    config: Given,
    options: InitOptions = {},
    parts?: Parts,
  ): C {
    // The base class and a subclass without the two declarations can be called from JavaScript.
    expectObject(BASE, "schema", this.schema);
    expectFunction(BASE, "plan", Reflect.get(this, "plan"));
    expectGpu(this.schema.name, gpu);
    const parameters = initParameters(this.schema.name, gpu, this.plan(config), options);
    try {
      const component = new this(config, parameters, parts);
      if (component instanceof Component) component.#owned.push(...Object.values(parameters));
      return component;
    } catch (error) {
      for (const tensor of Object.values(parameters)) tensor.dispose();
      throw error;
    }
  }

  /** What training changes, by name; the parameters of parts stand under the part's name. */
  parameters(): Record<string, Tensor> {
    return { ...this.#named(false), ...namedParameters(this.#parts) };
  }

  /** What checkpoints hold besides the parameters. */
  buffers(): Record<string, Tensor> {
    const ofParts = Object.entries(this.#parts).flatMap(([name, part]) =>
      Object.entries(part?.buffers?.() ?? {}).map(([key, tensor]) => [`${name}.${key}`, tensor] as const),
    );
    return { ...this.#named(true), ...Object.fromEntries(ofParts) };
  }

  #named(buffers: boolean): Record<string, Tensor> {
    return Object.fromEntries(
      Object.entries(this.weights).filter(([name]) => (this.#plan[name]?.buffer ?? false) === buffers),
    );
  }

  /** Registers something that the component made and `dispose` frees. */
  protected own<T extends { dispose(): void }>(thing: T): T {
    this.#owned.push(thing);
    return thing;
  }

  /** Frees what the component made: its tables, and its parameters where `init` drew them. Given tensors stay. */
  dispose(): void {
    for (const thing of this.#owned.splice(0)) thing.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
