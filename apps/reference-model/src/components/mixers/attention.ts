import {
  attention,
  attentionOutputs,
  checkDecodable,
  KVCache,
  pattern,
  windowOf,
  type Pattern,
  type PatternConfig,
} from "@x/attention";
import { ConfigError, linear, type Tensor } from "@x/kernels";
import { Fields, type ComponentSpec } from "../../config/index.js";
import type {
  AttentionEncoding,
  Factory,
  ForwardContext,
  Mixer,
  MixerState,
  Norm,
  StateOptions,
  Weights,
} from "../contract.js";
import { outStd, ParameterSet, STD } from "../parameters.js";
import { queryKeyNorm, type QueryKeyNorm } from "./qk_norm.js";
import { groupedHeads, stateOf } from "./shared.js";

const KEYS = [
  "type",
  "numHeads",
  "numKvHeads",
  "headDim",
  "window",
  "pattern",
  "softcap",
  "scale",
  "qkvBias",
  "outBias",
  "qkNorm",
] as const;

/**
 * Multi-head attention with shared keys (GQA, MQA), causal, with any encoding: `numHeads`, `numKvHeads` (numHeads),
 * `headDim` (dim / numHeads), `window` (keys that a query sees, the own one included), `pattern` (a
 * pattern of @x/attention in its JSON form, in addition to causal), `softcap`, `scale`, biases
 * `qkvBias` and `outBias` (false), `qkNorm` (a norm of queries and keys, see `queryKeyNorm`).
 */
class Attention implements Mixer {
  readonly #weights: Weights;
  readonly #set: ParameterSet;
  readonly #numHeads: number;
  readonly #numKvHeads: number;
  readonly #headDim: number;
  readonly #window: number | undefined;
  readonly #pattern: Pattern | undefined;
  readonly #softcap: number;
  readonly #scale: number;
  readonly #p: Record<string, Tensor>;
  readonly #encoding: AttentionEncoding | undefined;
  readonly #qkNorm: QueryKeyNorm | undefined;
  readonly #innerNorm: Norm | undefined;

  constructor(spec: ComponentSpec, weights: Weights) {
    const { model, gain, name } = weights;
    const f = new Fields(`${name}: attention`, spec, KEYS);
    this.#weights = weights;
    const { numHeads, numKvHeads, headDim } = groupedHeads(f, model.dim);
    this.#numHeads = numHeads;
    this.#numKvHeads = numKvHeads;
    this.#headDim = headDim;
    const given = f.get("pattern");
    const rule = given === undefined ? undefined : pattern(given as PatternConfig);
    if (rule) checkDecodable(`${name}: attention`, rule);
    // A pattern that is a window keeps a ring of keys as a window does.
    const left = rule && windowOf(rule)?.window?.left;
    const reach = left === undefined || left < 0 ? undefined : left + 1;
    const window = f.optionalInteger("window");
    this.#window = window === undefined || reach === undefined ? (window ?? reach) : Math.min(window, reach);
    this.#pattern = reach === undefined ? rule : undefined;
    this.#softcap = f.number("softcap", 0);
    if (f.get("qkNorm") !== undefined)
      this.#qkNorm = queryKeyNorm(f.get("qkNorm"), weights, { numHeads, numKvHeads, headDim });
    const fixed = this.#qkNorm?.scale;
    if (fixed !== undefined && f.get("scale") !== undefined)
      f.fail("scale", "is given; the norm of queries and keys has a factor of its own");
    this.#scale = fixed ?? f.number("scale", this.#headDim ** -0.5);
    const [qWidth, kvWidth] = [this.#numHeads * this.#headDim, this.#numKvHeads * this.#headDim];
    const set = (this.#set = new ParameterSet(weights));
    set.normal("q_proj.weight", [qWidth, model.dim]);
    set.normal("k_proj.weight", [kvWidth, model.dim]);
    set.normal("v_proj.weight", [kvWidth, model.dim], STD * gain);
    set.normal("o_proj.weight", [model.dim, qWidth], outStd(model) * gain);
    if (f.flag("qkvBias", false)) {
      set.constant("q_proj.bias", [qWidth], 0);
      set.constant("k_proj.bias", [kvWidth], 0);
      set.constant("v_proj.bias", [kvWidth], 0);
    }
    if (f.flag("outBias", false)) set.constant("o_proj.bias", [model.dim], 0);
    this.#p = set.all();
    this.#innerNorm = weights.innerNorm?.("inner_attn_ln", qWidth);
    this.#encoding = weights.encoding.attention?.(weights, {
      numHeads: this.#numHeads,
      numKvHeads: this.#numKvHeads,
      headDim: this.#headDim,
    });
  }

  forward(x: Tensor, context: ForwardContext, state: MixerState | undefined, residual?: Tensor): Tensor {
    const [batch, seq] = x.shape as [number, number];
    const p = this.#p;
    const project = (name: string, heads: number): Tensor =>
      linear(x, p[`${name}.weight`]!, p[`${name}.bias`]).reshape([batch, seq, heads, this.#headDim]);
    let q = project("q_proj", this.#numHeads);
    let k = project("k_proj", this.#numKvHeads);
    const v = project("v_proj", this.#numKvHeads);
    if (this.#qkNorm) ({ q, k } = this.#qkNorm.forward(q, k, context));
    const encoding = this.#encoding;
    if (encoding?.rotate) ({ q, k } = encoding.rotate(q, k, context));
    const cache = stateOf(KVCache, state);
    if (cache) {
      if (!context.positionIds) throw new ConfigError("attention", "a cache needs positionIds");
      cache.append(k, v, context.positionIds);
    }
    const [keys, values] = cache ? [cache.keys, cache.values] : [k, v];
    const range = { scale: this.#scale, minDistance: 0, maxDistance: context.seqLen - 1 };
    const terms = encoding?.scores?.(q, keys, range);
    if (this.#qkNorm?.scale !== undefined && terms?.scale !== undefined)
      throw new ConfigError(
        `${this.#weights.name}: attention`,
        "the encoding scales the scores itself; it does not go with a norm that does so too",
      );
    const options = {
      layout: "bshd",
      causal: true,
      scale: terms?.scale ?? this.#scale,
      softcap: this.#softcap,
      modifiers: terms?.modifiers ?? [],
      window: this.#window === undefined ? undefined : { left: this.#window - 1, right: 0 },
      pattern: this.#pattern,
      positions: cache && {
        ...cache.positions(context.positionIds!),
        minDistance: range.minDistance,
        maxDistance: range.maxDistance,
      },
    } as const;
    const query = terms?.query ?? q;
    let out: Tensor;
    if (encoding?.values) {
      const { values: relative } = encoding;
      const both = attentionOutputs(query, keys, values, { ...options, weightSums: relative.index });
      out = relative.add(both.out, both.weightSums!);
    } else out = attention(query, keys, values, options);
    out = out.reshape([batch, seq, this.#numHeads * this.#headDim]);
    if (this.#innerNorm) out = this.#innerNorm.forward(out, context);
    return linear(out, p["o_proj.weight"]!, p["o_proj.bias"], { residual });
  }

  createState({ batch, maxLength, maxChunk }: StateOptions): MixerState {
    return new KVCache(this.#weights.gpu, {
      batch,
      numKvHeads: this.#numKvHeads,
      headDim: this.#headDim,
      maxLength,
      window: this.#window,
      maxChunk,
    });
  }

  parameters(): Record<string, Tensor> {
    const inner = Object.entries(this.#innerNorm?.parameters() ?? {});
    return {
      ...this.#set.all(),
      ...this.#encoding?.parameters(),
      ...this.#qkNorm?.parameters(),
      ...Object.fromEntries(inner.map(([key, t]) => [`inner_attn_ln.${key}`, t])),
    };
  }
}

export const attentionMixer: Factory<Mixer> = (spec, weights) => new Attention(spec, weights);
