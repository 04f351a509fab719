import { MultiHeadLatentAttention, LatentCache, type MlaConfig } from "@x/attention";
import type { Tensor } from "@x/kernels";
import { rmsNorm } from "@x/norm";
import { RotaryEmbedding } from "@x/positional";
import { Fields, type ComponentSpec } from "../../config/index.js";
import type { Factory, ForwardContext, Mixer, MixerState, StateOptions, Weights } from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { stateOf } from "./shared.js";

const KEYS = [
  "type",
  "numHeads",
  "nopeDim",
  "ropeDim",
  "vDim",
  "kvRank",
  "qRank",
  "ropeBase",
  "scale",
] as const;

/**
 * DeepSeek's multi-head latent attention; position is in its own rotated key, so the layer's encoding is not asked:
 * `numHeads`, `nopeDim`, `ropeDim`, `vDim`, `kvRank`, `qRank` (0), `ropeBase` (10000), `scale`.
 */
class Mla implements Mixer {
  readonly #mla: MultiHeadLatentAttention;
  readonly #rope: RotaryEmbedding;

  constructor(spec: ComponentSpec, weights: Weights) {
    const { model, name } = weights;
    const f = new Fields(`${name}: mla`, spec, KEYS);
    const scale = f.get("scale") === undefined ? undefined : f.number("scale");
    const config: MlaConfig = {
      dim: model.dim,
      numHeads: f.integer("numHeads"),
      nopeDim: f.integer("nopeDim"),
      ropeDim: f.integer("ropeDim"),
      vDim: f.integer("vDim"),
      kvRank: f.integer("kvRank"),
      qRank: f.integer("qRank", 0, 0),
      ...(scale === undefined ? {} : { scale }),
    };
    this.#rope = new RotaryEmbedding({
      headDim: config.ropeDim,
      base: f.number("ropeBase", 10000),
      layout: "interleaved",
    });
    const parameters = new ParameterSet(weights).planned(MultiHeadLatentAttention.plan(config));
    this.#mla = new MultiHeadLatentAttention(config, parameters, {
      rope: this.#rope,
      rmsNorm,
    });
  }

  forward(x: Tensor, context: ForwardContext, state: MixerState | undefined, residual?: Tensor): Tensor {
    const held = stateOf(LatentCache, state);
    if (!held) return this.#mla.forward(x, { residual });
    const { positionIds: positions, textLength } = context;
    return this.#mla.forward(x, { residual, state: held, positions, textLength });
  }

  createState({ batch, maxLength }: StateOptions): MixerState {
    return this.#mla.createState({ batch, maxLength });
  }

  parameters(): Record<string, Tensor> {
    return this.#mla.parameters();
  }

  dispose(): void {
    this.#rope.dispose();
  }
}

export const mlaMixer: Factory<Mixer> = (spec, weights) => new Mla(spec, weights);
