import { TransformerXlAttention, type SegmentOptions, type TransformerXlCache } from "@x/attention";
import type { Tensor } from "@x/kernels";
import { Fields, type ComponentSpec } from "../../config/index.js";
import type { Factory, ForwardContext, Mixer, MixerState, StateOptions, Weights } from "../contract.js";
import { planned } from "./planned.js";
import { heads, stateAround } from "./shared.js";

const KEYS = ["type", "numHeads", "headDim", "segmentLen", "memLen", "clampLen"] as const;

interface XlState extends MixerState {
  readonly memory: TransformerXlCache;
}

/**
 * Transformer-XL's attention: segments that also see the hidden states of the `memLen` tokens before them, without
 * gradient, with its own relative positions: `numHeads`, `headDim` (dim / numHeads), `segmentLen`, `memLen`, `clampLen`.
 */
class TransformerXl implements Mixer {
  readonly #weights: Weights;
  readonly #attention: TransformerXlAttention;
  readonly #segments: SegmentOptions;

  constructor(spec: ComponentSpec, weights: Weights) {
    const { model, name } = weights;
    const f = new Fields(`${name}: transformerXl`, spec, KEYS);
    const { numHeads, headDim } = heads(f, model.dim);
    const config = {
      dim: model.dim,
      numHeads,
      headDim,
      clampLen: f.integer("clampLen", 0, 0),
    };
    this.#segments = { segmentLen: f.integer("segmentLen"), memLen: f.integer("memLen", undefined, 0) };
    this.#weights = weights;
    this.#attention = new TransformerXlAttention(
      config,
      planned(TransformerXlAttention.plan(config), weights),
    );
  }

  forward(x: Tensor, context: ForwardContext, state: MixerState | undefined, residual?: Tensor): Tensor {
    if (!state) return this.#attention.forward(x, { segments: this.#segments, residual });
    const cache = (state as XlState).memory;
    return this.#attention.forward(x, { cache, positions: context.positionIds, residual });
  }

  createState({ batch, maxLength, maxChunk }: StateOptions): MixerState {
    const options = { ...this.#segments, batch, maxLength, maxChunk };
    const memory = this.#attention.createCache(this.#weights.gpu, options);
    return stateAround(memory, memory.cache, { bytesPerToken: memory.cache.bytesPerToken });
  }

  parameters(): Record<string, Tensor> {
    return this.#attention.parameters();
  }

  dispose(): void {
    this.#attention.dispose();
  }
}

export const transformerXlMixer: Factory<Mixer> = (spec, weights) => new TransformerXl(spec, weights);
