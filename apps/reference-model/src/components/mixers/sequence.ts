import type { Plan, SequenceOptions, SequenceState } from "@x/attention";
import type { Gpu, Tensor } from "@x/kernels";
import { Fields, type ComponentSpec } from "../../config/index.js";
import type { Factory, ForwardContext, Mixer, MixerState, StateOptions, Weights } from "../contract.js";
import { planned } from "./planned.js";
import { stateAround } from "./shared.js";

/** What every sequence mixer without softmax offers: the whole sequence, or a chunk with a state of fixed size. */
export interface SequenceBlock {
  forward(x: Tensor, options: SequenceOptions): Tensor;
  createState(gpu: Gpu, options: { readonly batch: number }): SequenceState;
  parameters(): Record<string, Tensor>;
  dispose?(): void;
}

/** How a type of block is made: its keys, its configuration from them, its parameters, and the block. */
export interface SequenceMixerSpec<C> {
  readonly type: string;
  readonly keys: readonly string[];
  readonly config: (f: Fields, dim: number) => C;
  readonly plan: (config: C) => Plan;
  readonly build: (config: C, parameters: Record<string, Tensor>) => SequenceBlock;
}

class SequenceMixer implements Mixer {
  readonly #gpu: Gpu;
  readonly #block: SequenceBlock;

  constructor(gpu: Gpu, block: SequenceBlock) {
    this.#gpu = gpu;
    this.#block = block;
  }

  forward(x: Tensor, _: ForwardContext, state: MixerState | undefined, residual?: Tensor): Tensor {
    return this.#block.forward(x, { state: (state as SequenceMixerState | undefined)?.memory, residual });
  }

  createState({ batch }: StateOptions): MixerState {
    const memory = this.#block.createState(this.#gpu, { batch });
    return stateAround(memory, memory, { bytesPerToken: 0 });
  }

  parameters(): Record<string, Tensor> {
    return this.#block.parameters();
  }

  dispose(): void {
    this.#block.dispose?.();
  }
}

type SequenceMixerState = MixerState & { readonly memory: SequenceState };

/** A mixer of the reference model around a block whose state has a fixed size. */
export function sequenceMixer<C>({ type, keys, config, plan, build }: SequenceMixerSpec<C>): Factory<Mixer> {
  return (spec: ComponentSpec, weights: Weights) => {
    const f = new Fields(`${weights.name}: ${type}`, spec, ["type", ...keys]);
    const own = config(f, weights.model.dim);
    return new SequenceMixer(weights.gpu, build(own, planned(plan(own), weights)));
  };
}
