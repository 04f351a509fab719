import type { ContextCache, MultiHeadAttention } from "@x/attention";
import { ConfigError, type Tensor } from "@x/kernels";
import type { Encoded, Factory, ForwardContext, Mixer, MixerState } from "../contract.js";
import { attentionLayer } from "./attention.js";
import { stateOf } from "./shared.js";

/** Attention of an encoder's tokens to all of its text but what `keyMask` hides. */
const encoderAttention: Factory<Mixer> = (spec, weights) => {
  const { layer, position } = attentionLayer(spec, weights, false);
  return {
    forward: (x, context, _state, residual) =>
      layer.forward(x, { residual, normOptions: context, keyMask: context.keyMask }),
    createState: () => {
      throw new ConfigError(
        weights.name,
        "sees the whole text of an encoder; it decodes nothing step by step",
      );
    },
    parameters: () => ({ ...layer.parameters(), ...position?.parameters() }),
    buffers: () => layer.buffers(),
  };
};

/** Keys and values of an encoder's output, computed once for all steps of a decoding run. */
class CrossState implements MixerState {
  readonly bytesPerToken = 0;
  readonly #layer: MultiHeadAttention;
  #made: { readonly of: Tensor; readonly cache: ContextCache } | undefined;

  constructor(layer: MultiHeadAttention) {
    this.#layer = layer;
  }

  /** The keys and values of an output; another output than before takes the place of the old one. */
  cache({ states, keyMask }: Encoded, normOptions: object): ContextCache {
    if (this.#made?.of !== states) {
      this.clear();
      const { gpu } = states;
      const cache = this.#layer.contextCache(states, { keyMask, normOptions });
      for (const tensor of [cache.keys, cache.values]) gpu.keep(tensor);
      this.#made = { of: states, cache };
    }
    return this.#made.cache;
  }

  /** Beams are of one text, and all rows of it are equal. */
  reorder(): void {}

  clear(): void {
    this.#made?.cache.dispose();
    this.#made = undefined;
  }

  dispose(): void {
    this.clear();
  }
}

/** Attention of a decoder's tokens to an encoder's output. */
const crossAttention: Factory<Mixer> = (spec, weights) => {
  const { name } = weights;
  // Distances between texts of two kinds mean nothing: no encoding acts here.
  const { layer } = attentionLayer(spec, { ...weights, encoding: { parameters: () => ({}) } }, false);
  return {
    forward: (x: Tensor, context: ForwardContext, state: MixerState | undefined, residual?: Tensor) => {
      const { encoded } = context;
      if (!encoded) throw new ConfigError(name, "encoded is missing; it must be the output of an encoder");
      const held = stateOf(CrossState, state);
      const { states, keyMask } = encoded;
      const source = held ? { context: held.cache(encoded, context) } : { context: states, keyMask };
      return layer.forward(x, { ...source, residual, normOptions: context });
    },
    createState: () => new CrossState(layer),
    // Keys and values in f32.
    contextBytesPerToken: 2 * layer.numKvHeads * layer.headDim * 4,
    parameters: () => layer.parameters(),
    buffers: () => layer.buffers(),
  };
};

/** What the stacks of an encoder-decoder have besides the mixers of a decoder-only model. */
export const ENCODER_DECODER_MIXERS: Readonly<Record<string, Factory<Mixer>>> = {
  encoderAttention,
  crossAttention,
};
