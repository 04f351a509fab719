import {
  GatedLongConv,
  GriffinBlock,
  H3,
  Lru,
  Mamba2Block,
  MambaBlock,
  Rwkv4TimeMix,
  Rwkv6TimeMix,
  S4d,
  S5,
  type Plan,
  type SequenceOptions,
  type SequenceState,
} from "@x/attention";
import type { ComponentClass, Schema, Tensor } from "@x/kernels";
import { Fields, type ComponentSpec } from "../../config/index.js";
import type { Factory, ForwardContext, Mixer, MixerState, StateOptions, Weights } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { planned } from "./planned.js";

/** A mixer without softmax: the whole sequence, or a chunk with a state of fixed size. */
interface SequenceLayer {
  forward(x: Tensor, options: SequenceOptions): Tensor;
  createState(options: { readonly batch: number }): SequenceState;
  parameters(): Record<string, Tensor>;
  dispose?(): void;
}

/** How a type of block is made: its keys, its configuration from them, its parameters, and the block. */
export interface SequenceMixerSpec<C> {
  readonly type: string;
  readonly keys: readonly string[];
  readonly config: (f: Fields, dim: number) => C;
  readonly plan: (config: C) => Plan;
  readonly build: (config: C, parameters: Record<string, Tensor>) => SequenceLayer;
}

/** A mixer of the reference model around a layer whose state has a fixed size. */
const mixerAround = (layer: SequenceLayer): Mixer => ({
  forward: (x: Tensor, _: ForwardContext, state: MixerState | undefined, residual?: Tensor) =>
    layer.forward(x, { state: state as SequenceState | undefined, residual }),
  createState: ({ batch }: StateOptions) => layer.createState({ batch }),
  parameters: () => layer.parameters(),
  dispose: () => {
    layer.dispose?.();
  },
});

/** A mixer of the reference model around a block whose state has a fixed size. */
export function sequenceMixer<C>({ type, keys, config, plan, build }: SequenceMixerSpec<C>): Factory<Mixer> {
  return (spec: ComponentSpec, weights: Weights) => {
    const f = new Fields(`${weights.name}: ${type}`, spec, ["type", ...keys]);
    const own = config(f, weights.model.dim);
    return mixerAround(build(own, planned(plan(own), weights)));
  };
}

/** What a type of the reference model has besides what its package declares. */
interface Settings {
  /** Values of keys that are left out, where the package asks for them or has others. */
  readonly defaults?: (spec: ComponentSpec, dim: number) => Readonly<Record<string, unknown>>;
  /** Keys that a causal model with a state cannot have. */
  readonly without?: readonly string[];
}

/** A mixer whose keys, ranges, defaults and parameters are those that the package declares. */
function packaged<Given>(
  layer: ComponentClass<SequenceLayer, Given, unknown> & { readonly schema: Schema },
  { defaults = () => ({}), without = [] }: Settings = {},
): Factory<Mixer> {
  const keys = layer.schema.keys.filter((key) => key !== "dim" && !without.includes(key));
  return (spec: ComponentSpec, weights: Weights) => {
    const who = `${weights.name}: ${spec.type}`;
    new Fields(who, spec, ["type", ...keys]);
    const { dim } = weights.model;
    const given = Object.entries(spec).filter(([key, value]) => key !== "type" && value !== null);
    const config = { ...defaults(spec, dim), ...Object.fromEntries(given), dim };
    layer.schema.read(config, who);
    const plan = layer.plan(config as Given);
    return mixerAround(new layer(config as Given, new ParameterSet(weights).planned(plan)));
  };
}

/** Mixers without softmax, by type. */
export const SEQUENCE_MIXERS: Readonly<Record<string, Factory<Mixer>>> = {
  gatedLongConv: packaged(GatedLongConv),
  griffin: packaged(GriffinBlock),
  h3: packaged(H3),
  lru: packaged(Lru),
  mamba: packaged(MambaBlock),
  mamba2: packaged(Mamba2Block),
  rwkv4: packaged(Rwkv4TimeMix),
  rwkv6: packaged(Rwkv6TimeMix),
  s4d: packaged(S4d),
  s5: packaged(S5),
};
