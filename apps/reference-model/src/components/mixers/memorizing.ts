import { MemorizingAttention, type MemorizingConfig, type MemorizingState } from "@x/attention";
import type { Tensor } from "@x/kernels";
import { Fields, type ComponentSpec } from "../../config/index.js";
import type { Factory, ForwardContext, Mixer, MixerState, StateOptions, Weights } from "../contract.js";
import { planned } from "./planned.js";
import { heads, stateAround } from "./shared.js";

const KEYS = [
  "type",
  "numHeads",
  "numKvHeads",
  "headDim",
  "topK",
  "combine",
  "segmentLen",
  "memorySize",
  "qkNorm",
] as const;

interface KnnState extends MixerState {
  readonly memory: MemorizingState;
}

/**
 * Memorizing attention: the segment, and the `topK` best entries of all segments before: `numHeads`, `numKvHeads`
 * (numHeads), `headDim` (dim / numHeads), `topK`, `combine` ("gate" or "joint"), `segmentLen`, `memorySize` (0: all),
 * `qkNorm` (false). It has no positions of its own.
 */
class Memorizing implements Mixer {
  readonly #weights: Weights;
  readonly #attention: MemorizingAttention;

  constructor(spec: ComponentSpec, weights: Weights) {
    const { model, name } = weights;
    const f = new Fields(`${name}: memorizing`, spec, KEYS);
    const { numHeads, headDim } = heads(f, model.dim);
    const config: MemorizingConfig = {
      dim: model.dim,
      numHeads,
      numKvHeads: f.integer("numKvHeads", numHeads),
      headDim,
      topK: f.integer("topK"),
      combine: f.oneOf("combine", ["gate", "joint"] as const, "gate"),
      segmentLen: f.integer("segmentLen"),
      memorySize: f.integer("memorySize", 0, 0),
      qkNorm: f.flag("qkNorm", false),
    };
    this.#weights = weights;
    this.#attention = new MemorizingAttention(config, planned(MemorizingAttention.plan(config), weights));
  }

  forward(x: Tensor, _: ForwardContext, state: MixerState | undefined, residual?: Tensor): Tensor {
    if (state) return (state as KnnState).memory.step(x, residual);
    return x.gpu.scope(() => this.#attention.forward(x, { residual }).out);
  }

  createState({ batch }: StateOptions): MixerState {
    const memory = this.#attention.createState(this.#weights.gpu, { batch });
    return stateAround(memory, memory, { bytesPerToken: memory.bytesPerToken, countsOnHost: true });
  }

  parameters(): Record<string, Tensor> {
    return this.#attention.parameters();
  }
}

export const memorizingMixer: Factory<Mixer> = (spec, weights) => new Memorizing(spec, weights);
