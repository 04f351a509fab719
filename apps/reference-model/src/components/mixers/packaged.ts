import type { TokenPositions } from "@x/attention";
import { ConfigError, type ComponentClass, type Schema, type State, type Tensor } from "@x/kernels";
import { configOf, type ComponentSpec } from "../../config/index.js";
import type { Factory, ForwardContext, Mixer, MixerState, StateOptions, Weights } from "../contract.js";
import { ParameterSet } from "../parameters.js";

/** What a layer is called with: `positions` only where its settings ask for them. */
interface CallOptions {
  readonly state?: State | undefined;
  readonly residual?: Tensor | undefined;
  readonly positions?: TokenPositions;
}

/** A layer of a package that mixes tokens: whole sequences, or pieces of them with a state. */
interface MixingLayer {
  forward(x: Tensor, options?: CallOptions): Tensor;
  createState(options: StateOptions): State;
  parameters(): Record<string, Tensor>;
  dispose(): void;
}

/** What a type of the reference model has besides what its package declares. */
interface Settings {
  /** Values of keys that are left out, where the package has others. */
  readonly defaults?: (spec: ComponentSpec, dim: number) => Readonly<Record<string, unknown>>;
  /** Keys that a causal model with a state cannot have. */
  readonly without?: readonly string[];
  /** Keys that a model needs in order to decode. */
  readonly required?: readonly string[];
  /** Sizes that a state is made of besides the number of sequences. */
  readonly sizes?: readonly (keyof StateOptions)[];
  /** A call with a state is given the positions of its tokens; otherwise the layer counts them. */
  readonly positions?: boolean;
  /** Parts of other packages, such as the fused norm. */
  readonly parts?: object;
}

/** A mixer whose keys, ranges, defaults and parameters are those that the package declares. */
export function packaged<Given>(
  layer: ComponentClass<MixingLayer, Given, object> & { readonly schema: Schema },
  { defaults = () => ({}), without = [], required = [], sizes = [], positions = false, parts }: Settings = {},
): Factory<Mixer> {
  return (spec: ComponentSpec, weights: Weights) => {
    const who = `${weights.name}: ${spec.type}`;
    const given = Object.fromEntries(Object.entries(spec).filter(([, value]) => value !== null));
    const { dim } = weights.model;
    const config = configOf(who, layer.schema, { ...defaults(spec, dim), ...given }, { dim }, without);
    for (const key of required)
      if (config[key] === undefined) throw new ConfigError(who, `${key} is missing; decoding needs it`);
    const plan = layer.plan(config as Given);
    const made = new layer(config as Given, new ParameterSet(weights).planned(plan), parts);
    return {
      forward: (x: Tensor, context: ForwardContext, state: MixerState | undefined, residual?: Tensor) => {
        const where = positions && state ? { positions: context.positionIds } : {};
        return made.forward(x, { state: state as State | undefined, residual, ...where });
      },
      createState: (options: StateOptions) => {
        const told: Partial<StateOptions> = Object.fromEntries(sizes.map((size) => [size, options[size]]));
        return made.createState({ ...told, batch: options.batch } as StateOptions);
      },
      parameters: () => made.parameters(),
      dispose: () => {
        made.dispose();
      },
    };
  };
}
