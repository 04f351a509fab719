import { attention, KVCache, type AttentionPositions } from "@x/attention";
import { ConfigError, linear, type Tensor } from "@x/kernels";
import { rmsNorm } from "@x/norm";
import { Fields, type ComponentSpec } from "../../config/index.js";
import type {
  AttentionEncoding,
  Factory,
  ForwardContext,
  Mixer,
  MixerState,
  StateOptions,
  Weights,
} from "../contract.js";
import { outStd, ParameterSet, STD } from "../parameters.js";
import { groupedHeads, stateOf } from "./shared.js";

const KEYS = ["type", "numHeads", "numKvHeads", "headDim"] as const;

/** What the first upper layer makes and all read. */
interface Shared {
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly positions: AttentionPositions | undefined;
}

const NAME = "yoco";

/**
 * The upper half of YOCO: layers that attend to one set of keys and values. Give the lower layers `attention` with a
 * `window`; the first layer of type `yoco` makes keys and values from its input (RMSNorm kv_layer_norm, then k_proj
 * and v_proj), the ones after it have queries only, and a prompt passes all of them by but for its last token.
 * `numHeads`, `numKvHeads` (numHeads), `headDim` (dim / numHeads).
 *
 * Sun et al. 2024, arXiv:2405.05254, section 2.
 */
class YocoCross implements Mixer {
  readonly #weights: Weights;
  readonly #numHeads: number;
  readonly #numKvHeads: number;
  readonly #headDim: number;
  readonly #p: Record<string, Tensor>;
  readonly #encoding: AttentionEncoding | undefined;
  /** The first of the upper layers, which makes what all read. */
  readonly #first: boolean;
  readonly tokenwise = true;

  constructor(spec: ComponentSpec, weights: Weights) {
    const { model, gain, name, layer } = weights;
    const f = new Fields(`${name}: yoco`, spec, KEYS);
    this.#weights = weights;
    const { numHeads, numKvHeads, headDim } = groupedHeads(f, model.dim);
    this.#numHeads = numHeads;
    this.#numKvHeads = numKvHeads;
    this.#headDim = headDim;
    this.#first = model.layers[layer - 1]?.mixer.type !== "yoco";
    const set = new ParameterSet(weights);
    const inner = this.#numHeads * this.#headDim;
    set.normal("q_proj.weight", [inner, model.dim]);
    if (this.#first) {
      set.constant("kv_layer_norm.weight", [model.dim], 1);
      set.normal("k_proj.weight", [this.#numKvHeads * this.#headDim, model.dim]);
      set.normal("v_proj.weight", [this.#numKvHeads * this.#headDim, model.dim], STD * gain);
    }
    set.normal("o_proj.weight", [model.dim, inner], outStd(model) * gain);
    this.#p = set.all();
    this.#encoding = weights.encoding.attention?.(weights, {
      numHeads: this.#numHeads,
      numKvHeads: this.#numKvHeads,
      headDim: this.#headDim,
    });
    if (this.#encoding && (this.#encoding.scores ?? this.#encoding.values))
      f.fail("type", "takes encodings that turn queries and keys (rope), or none");
  }

  #heads(x: Tensor, name: string, n: number): Tensor {
    const [batch, seq] = x.shape as [number, number];
    return linear(x, this.#p[`${name}.weight`]!).reshape([batch, seq, n, this.#headDim]);
  }

  prepare(x: Tensor, context: ForwardContext, state: MixerState | undefined): void {
    if (!this.#first) return;
    const source = rmsNorm(x, { weight: this.#p["kv_layer_norm.weight"], eps: 1e-6 });
    const k = this.#heads(source, "k_proj", this.#numKvHeads);
    const v = this.#heads(source, "v_proj", this.#numKvHeads);
    const turned = this.#encoding?.rotate?.(k, k, context).k ?? k;
    context.shared.set(NAME, this.#store(turned, v, context, stateOf(KVCache, state)));
  }

  forward(x: Tensor, context: ForwardContext, _state: MixerState | undefined, residual?: Tensor): Tensor {
    const [batch, seq] = x.shape as [number, number];
    const shared = context.shared.get(NAME) as Shared;
    const q = this.#heads(x, "q_proj", this.#numHeads);
    const turned = this.#encoding?.rotate?.(q, q, this.#rows(context, seq)).q ?? q;
    const positions = shared.positions && { ...shared.positions, query: context.positionIds! };
    const out = attention(turned, shared.keys, shared.values, {
      layout: "bshd",
      causal: true,
      ...(positions ? { positions } : {}),
    });
    const flat = out.reshape([batch, seq, this.#numHeads * this.#headDim]);
    return linear(flat, this.#p["o_proj.weight"]!, undefined, { residual });
  }

  /** Without a cache the last row of a longer text may come alone: it stands at the end. */
  #rows(context: ForwardContext, seq: number): ForwardContext {
    if (context.positionIds || seq === context.seqLen) return context;
    const { gpu } = this.#weights;
    const batch = (context.shared.get(NAME) as Shared).keys.shape[0]!;
    const ids = Int32Array.from({ length: batch * seq }, (_, i) => context.seqLen - seq + (i % seq));
    return { ...context, positionIds: gpu.tensor(ids, [batch, seq], "i32") };
  }

  #store(k: Tensor, v: Tensor, context: ForwardContext, cache: KVCache | undefined): Shared {
    if (!cache) return { keys: k, values: v, positions: undefined };
    if (!context.positionIds) throw new ConfigError("yoco", "a cache needs positionIds");
    const positions = cache.append(k, v, context.positionIds);
    return { keys: cache.keys, values: cache.values, positions };
  }

  createState({ batch, maxLength }: StateOptions): MixerState {
    if (!this.#first) return { bytesPerToken: 0, clear: () => undefined, dispose: () => undefined };
    const { gpu } = this.#weights;
    return new KVCache(gpu, { batch, numKvHeads: this.#numKvHeads, headDim: this.#headDim, maxLength });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}

export const yocoMixer: Factory<Mixer> = (spec, weights) => new YocoCross(spec, weights);
