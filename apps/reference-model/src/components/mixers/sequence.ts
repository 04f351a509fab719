import {
  GatedDeltaNet,
  GatedLongConv,
  GatedRetention,
  GriffinBlock,
  H3,
  LinearAttention,
  Lru,
  Mamba2Block,
  MambaBlock,
  MultiScaleRetention,
  Rwkv4TimeMix,
  Rwkv6TimeMix,
  S4d,
  S5,
  type SequenceOptions,
  type SequenceState,
} from "@x/attention";
import type { ComponentClass, Schema, Tensor } from "@x/kernels";
import { configOf, type ComponentSpec } from "../../config/index.js";
import type { Factory, ForwardContext, Mixer, MixerState, StateOptions, Weights } from "../contract.js";
import { ParameterSet } from "../parameters.js";

/** A mixer without softmax: the whole sequence, or a chunk with a state of fixed size. */
interface SequenceLayer {
  forward(x: Tensor, options: SequenceOptions): Tensor;
  createState(options: { readonly batch: number }): SequenceState;
  parameters(): Record<string, Tensor>;
  dispose?(): void;
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

/** What a type of the reference model has besides what its package declares. */
interface Settings {
  /** Values of keys that are left out, where the package has others. */
  readonly defaults?: (spec: ComponentSpec) => Readonly<Record<string, unknown>>;
  /** Keys that a causal model with a state cannot have. */
  readonly without?: readonly string[];
}

/** A mixer whose keys, ranges, defaults and parameters are those that the package declares. */
function packaged<Given>(
  layer: ComponentClass<SequenceLayer, Given, unknown> & { readonly schema: Schema },
  { defaults = () => ({}), without = [] }: Settings = {},
): Factory<Mixer> {
  return (spec: ComponentSpec, weights: Weights) => {
    const who = `${weights.name}: ${spec.type}`;
    const given = Object.fromEntries(Object.entries(spec).filter(([, value]) => value !== null));
    const { dim } = weights.model;
    const config = configOf(who, layer.schema, { ...defaults(spec), ...given }, { dim }, without) as Given;
    const plan = layer.plan(config);
    return mixerAround(new layer(config, new ParameterSet(weights).planned(plan)));
  };
}

/** A text is gone through in chunks of 64 tokens where its configuration does not say how. */
const inChunks = ({ form }: ComponentSpec): Readonly<Record<string, unknown>> =>
  (form ?? "chunkwise") === "chunkwise" ? { form: "chunkwise", chunkSize: 64 } : {};

/** Mixers without softmax, by type. */
export const SEQUENCE_MIXERS: Readonly<Record<string, Factory<Mixer>>> = {
  gatedDeltaNet: packaged(GatedDeltaNet),
  gatedLongConv: packaged(GatedLongConv),
  gatedRetention: packaged(GatedRetention, { defaults: inChunks }),
  griffin: packaged(GriffinBlock),
  h3: packaged(H3),
  linearAttention: packaged(LinearAttention, { defaults: inChunks, without: ["causal"] }),
  lru: packaged(Lru),
  mamba: packaged(MambaBlock),
  mamba2: packaged(Mamba2Block),
  retention: packaged(MultiScaleRetention, { defaults: inChunks, without: ["denominator"] }),
  rwkv4: packaged(Rwkv4TimeMix),
  rwkv6: packaged(Rwkv6TimeMix),
  s4d: packaged(S4d),
  s5: packaged(S5),
};
