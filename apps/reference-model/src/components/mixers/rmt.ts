import { RecurrentMemoryTransformer, type RmtConfig, type RmtState } from "@x/attention";
import { add, type Tensor } from "@x/kernels";
import { rmsNorm } from "@x/norm";
import { Fields, type ComponentSpec } from "../../config/index.js";
import type { Factory, ForwardContext, Mixer, MixerState, StateOptions, Weights } from "../contract.js";
import { planned } from "./planned.js";
import { heads, stateAround } from "./shared.js";

const KEYS = [
  "type",
  "layers",
  "numHeads",
  "headDim",
  "ffnDim",
  "segmentLen",
  "memTokens",
  "writeInit",
  "memoryCausal",
  "detachEvery",
] as const;

interface MemoryState extends MixerState {
  readonly memory: RmtState;
}

/**
 * A recurrent memory transformer (decoder form) as one mixer: its memory tokens go through all of its `layers`, so it
 * is a stack of its own: `layers`, `numHeads`, `headDim` (dim / numHeads), `ffnDim`, `segmentLen`, `memTokens`,
 * `writeInit` ("memory"), `memoryCausal` (false), `detachEvery` (0).
 */
class Rmt implements Mixer {
  readonly #weights: Weights;
  readonly #rmt: RecurrentMemoryTransformer;

  constructor(spec: ComponentSpec, weights: Weights) {
    const { model, name } = weights;
    const f = new Fields(`${name}: rmt`, spec, KEYS);
    const { numHeads, headDim } = heads(f, model.dim);
    const config: RmtConfig = {
      dim: model.dim,
      mode: "decoder",
      layers: f.integer("layers"),
      numHeads,
      headDim,
      ffnDim: f.integer("ffnDim"),
      segmentLen: f.integer("segmentLen"),
      memTokens: f.integer("memTokens"),
      writeInit: f.oneOf("writeInit", ["memory", "learned"] as const, "memory"),
      memoryCausal: f.flag("memoryCausal", false),
      detachEvery: f.integer("detachEvery", 0, 0),
    };
    this.#weights = weights;
    const parameters = planned(RecurrentMemoryTransformer.plan(config), weights);
    this.#rmt = new RecurrentMemoryTransformer(config, parameters, { rmsNorm });
  }

  forward(x: Tensor, _: ForwardContext, state: MixerState | undefined, residual?: Tensor): Tensor {
    return x.gpu.scope(() => {
      const out = state ? (state as MemoryState).memory.step(x) : this.#rmt.forward(x).out;
      return residual ? add(residual, out) : out;
    });
  }

  createState({ batch }: StateOptions): MixerState {
    const memory = this.#rmt.createState(this.#weights.gpu, { batch });
    // Its size is fixed: no token adds to it.
    return stateAround(memory, memory, { bytesPerToken: 0, countsOnHost: true });
  }

  parameters(): Record<string, Tensor> {
    return this.#rmt.parameters();
  }
}

export const rmtMixer: Factory<Mixer> = (spec, weights) => new Rmt(spec, weights);
