import { attention, KVCache } from "@x/attention";
import { GatedFeedForward } from "@x/ffn";
import {
  add,
  ConfigError,
  linear,
  namedParameters,
  randomNormal,
  subParameters,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { loadBalanceLoss, MixtralMoe } from "@x/moe";
import { RMSNorm, rmsNorm } from "@x/norm";
import { RotaryEmbedding } from "@x/positional";
import type { AttentionSpec, ComponentSpec, GluSpec, ModelConfig, MoeSpec } from "./config.js";

/** What a layer's parts may look at in a forward pass. */
export interface ForwardContext {
  /** Length of the longest sequence of this call, cache included. */
  readonly seqLen: number;
  /** i32 [batch, seq], with a cache. */
  readonly positionIds?: Tensor | undefined;
  /** Losses that layers add to the model's (balancing), collected in training. */
  readonly losses?: Tensor[] | undefined;
}

/** State that a mixer keeps from token to token. */
export interface MixerState {
  dispose(): void;
  clear(): void;
  readonly bytesPerToken: number;
}

export interface StateOptions {
  readonly batch: number;
  readonly maxLength: number;
  readonly maxChunk: number;
}

/** Mixes tokens: attention or anything else that maps [batch, seq, dim] to itself, causally. */
export interface Mixer extends Module {
  forward(x: Tensor, context: ForwardContext, state: MixerState | undefined, residual: Tensor): Tensor;
  createState(options: StateOptions): MixerState;
}

/** Works on each token. */
export interface FeedForwardBlock extends Module {
  forward(x: Tensor, context: ForwardContext, residual: Tensor): Tensor;
  /** Parameters that one token uses. */
  readonly activeParameters: number;
}

/** How a part gets its weights: drawn from a seed, or taken from a checkpoint. */
export interface Weights {
  readonly gpu: Gpu;
  readonly model: ModelConfig;
  /** Number of the layer, and of all layers. */
  readonly layer: number;
  /** A checkpoint's parameters below the part's name; absent: initialise. */
  readonly given?: Readonly<Record<string, Tensor>> | undefined;
  readonly seed: number;
}

export type MixerFactory = (spec: ComponentSpec, weights: Weights) => Mixer;
export type FeedForwardFactory = (spec: ComponentSpec, weights: Weights) => FeedForwardBlock;

/** Parts by name; give your own to `CausalLM` to use them from a configuration. */
export interface Components {
  readonly mixers: Readonly<Record<string, MixerFactory>>;
  readonly ffns: Readonly<Record<string, FeedForwardFactory>>;
}

const STD = 0.02;
/** Output projections shrink with depth (GPT-2). */
const outStd = (weights: Weights): number => STD / Math.sqrt(2 * weights.model.layers.length);
/** Random streams: 32 for each layer. */
const stream = (weights: Weights, part: number): number => 64 + weights.layer * 32 + part;

const checkParameter = (who: string, name: string, tensor: Tensor, shape: readonly number[]): Tensor => {
  if (tensor.rank !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
    throw new ConfigError(
      who,
      `${name} has shape [${tensor.shape.join(", ")}]; the configuration says [${shape.join(", ")}]`,
    );
  }
  return tensor;
};

class AttentionMixer implements Mixer {
  readonly #spec: AttentionSpec;
  readonly #parameters: Record<string, Tensor>;
  readonly #rope: RotaryEmbedding;
  readonly #eps: number;
  readonly #gpu: Gpu;

  constructor(spec: AttentionSpec, weights: Weights) {
    const { gpu, model, given, seed } = weights;
    this.#spec = spec;
    this.#gpu = gpu;
    this.#eps = model.normEps;
    const { numHeads, numKvHeads, headDim, qkvBias, outBias, qkNorm } = spec;
    const normal = (shape: readonly number[], part: number, std: number): Tensor =>
      gpu.keep(randomNormal(gpu, shape, { seed, stream: stream(weights, part), std }));
    const ones = (n: number): Tensor => gpu.keep(gpu.full([n], 1));
    const zeros = (n: number): Tensor => gpu.keep(gpu.zeros([n]));
    const [qWidth, kvWidth] = [numHeads * headDim, numKvHeads * headDim];
    const plan: [string, readonly number[], () => Tensor][] = [
      ["q_proj.weight", [qWidth, model.dim], () => normal([qWidth, model.dim], 0, STD)],
      ["k_proj.weight", [kvWidth, model.dim], () => normal([kvWidth, model.dim], 1, STD)],
      ["v_proj.weight", [kvWidth, model.dim], () => normal([kvWidth, model.dim], 2, STD)],
      ["o_proj.weight", [model.dim, qWidth], () => normal([model.dim, qWidth], 3, outStd(weights))],
      ...(qkvBias
        ? ([
            ["q_proj.bias", [qWidth], () => zeros(qWidth)],
            ["k_proj.bias", [kvWidth], () => zeros(kvWidth)],
            ["v_proj.bias", [kvWidth], () => zeros(kvWidth)],
          ] as [string, number[], () => Tensor][])
        : []),
      ...(outBias
        ? ([["o_proj.bias", [model.dim], () => zeros(model.dim)]] as [string, number[], () => Tensor][])
        : []),
      ...(qkNorm
        ? ([
            ["q_norm.weight", [headDim], () => ones(headDim)],
            ["k_norm.weight", [headDim], () => ones(headDim)],
          ] as [string, number[], () => Tensor][])
        : []),
    ];
    this.#parameters = Object.fromEntries(
      plan.map(([name, shape, init]) => [
        name,
        given ? checkParameter("attention", name, takeParameter("attention", given, name), shape) : init(),
      ]),
    );
    this.#rope = new RotaryEmbedding(gpu, spec.rope);
  }

  forward(x: Tensor, context: ForwardContext, state: MixerState | undefined, residual: Tensor): Tensor {
    const { numHeads, numKvHeads, headDim, window } = this.#spec;
    const [batch, seq] = x.shape as [number, number];
    const p = this.#parameters;
    const project = (name: string, heads: number): Tensor =>
      linear(x, p[`${name}.weight`]!, p[`${name}.bias`]).reshape([batch, seq, heads, headDim]);
    let q = project("q_proj", numHeads);
    let k = project("k_proj", numKvHeads);
    const v = project("v_proj", numKvHeads);
    if (p["q_norm.weight"]) {
      q = rmsNorm(q, p["q_norm.weight"], { eps: this.#eps });
      k = rmsNorm(k, p["k_norm.weight"], { eps: this.#eps });
    }
    const rotation = {
      layout: "bshd",
      seqLen: context.seqLen,
      ...(context.positionIds ? { positionIds: context.positionIds } : {}),
    } as const;
    q = this.#rope.apply(q, rotation);
    k = this.#rope.apply(k, rotation);
    const masks = {
      layout: "bshd",
      causal: true,
      window: window === undefined ? undefined : { left: window - 1, right: 0 },
    } as const;
    let out: Tensor;
    if (state) {
      const cache = state as unknown as KVCache;
      cache.append(k, v, context.positionIds!);
      out = attention(q, cache.keys, cache.values, {
        ...masks,
        positions: cache.positions(context.positionIds!),
      });
    } else out = attention(q, k, v, masks);
    return linear(out.reshape([batch, seq, numHeads * headDim]), p["o_proj.weight"]!, p["o_proj.bias"], {
      residual,
    });
  }

  createState({ batch, maxLength, maxChunk }: StateOptions): MixerState {
    const { numKvHeads, headDim, window } = this.#spec;
    return new KVCache(this.#gpu, { batch, numKvHeads, headDim, maxLength, window, maxChunk });
  }

  parameters(): Record<string, Tensor> {
    return this.#parameters;
  }
}

class GluBlock implements FeedForwardBlock {
  readonly #ffn: GatedFeedForward;

  constructor(spec: GluSpec, weights: Weights) {
    const { gpu, model, given, seed } = weights;
    if (given) {
      const [dim, hidden] = [model.dim, spec.hiddenDim];
      const check = (name: string, shape: readonly number[]): Tensor =>
        checkParameter("mlp", name, takeParameter("mlp", given, name), shape);
      check("gate_proj.weight", [hidden, dim]);
      check("up_proj.weight", [hidden, dim]);
      check("down_proj.weight", [dim, hidden]);
      if (spec.bias)
        for (const [name, n] of [
          ["gate_proj.bias", hidden],
          ["up_proj.bias", hidden],
          ["down_proj.bias", dim],
        ] as const)
          check(name, [n]);
    }
    this.#ffn = given
      ? GatedFeedForward.fromParameters({ kind: spec.kind }, given)
      : GatedFeedForward.init(
          gpu,
          { dim: model.dim, hiddenDim: spec.hiddenDim, kind: spec.kind },
          { seed, stream: stream(weights, 8), std: STD, outStd: outStd(weights) },
        );
  }

  get activeParameters(): number {
    return Object.values(this.parameters()).reduce((n, t) => n + t.size, 0);
  }

  forward(x: Tensor, _: ForwardContext, residual: Tensor): Tensor {
    return this.#ffn.forward(x, { residual });
  }

  parameters(): Record<string, Tensor> {
    return this.#ffn.parameters();
  }
}

class MoeBlock implements FeedForwardBlock {
  readonly #moe: MixtralMoe;
  readonly #spec: MoeSpec;
  readonly #balance: number;

  constructor(spec: MoeSpec, weights: Weights) {
    const { gpu, model, given, seed } = weights;
    this.#spec = spec;
    this.#balance = model.balanceLoss;
    const { hiddenDim, numExperts, topK } = spec;
    if (given) {
      const check = (name: string, shape: readonly number[]): Tensor =>
        checkParameter("moe", name, takeParameter("moe", given, name), shape);
      check("gate.weight", [numExperts, model.dim]);
      check("experts.gate_proj", [numExperts, hiddenDim, model.dim]);
      check("experts.up_proj", [numExperts, hiddenDim, model.dim]);
      check("experts.down_proj", [numExperts, model.dim, hiddenDim]);
    }
    this.#moe = given
      ? MixtralMoe.fromParameters({ topK }, given)
      : MixtralMoe.init(
          gpu,
          { dim: model.dim, hiddenDim, numExperts, topK },
          { seed, stream: stream(weights, 8), std: STD, outStd: outStd(weights) },
        );
  }

  get activeParameters(): number {
    const all = Object.values(this.parameters()).reduce((n, t) => n + t.size, 0);
    const router = this.parameters()["gate.weight"]!.size;
    return router + ((all - router) * this.#spec.topK) / this.#spec.numExperts;
  }

  forward(x: Tensor, context: ForwardContext, residual: Tensor): Tensor {
    const { out, logits } = this.#moe.forward(x);
    if (context.losses && this.#balance > 0) {
      context.losses.push(
        loadBalanceLoss(logits, { kind: "topk", topK: this.#spec.topK, alpha: this.#balance }).loss,
      );
    }
    return add(residual, out);
  }

  parameters(): Record<string, Tensor> {
    return this.#moe.parameters();
  }
}

/** The parts that the model's families use. */
export const COMPONENTS: Components = {
  mixers: { attention: (spec, weights) => new AttentionMixer(spec as unknown as AttentionSpec, weights) },
  ffns: {
    glu: (spec, weights) => new GluBlock(spec as unknown as GluSpec, weights),
    moe: (spec, weights) => new MoeBlock(spec as unknown as MoeSpec, weights),
  },
};

/** One pre-norm layer: x += mixer(norm(x)); x += ffn(norm(x)). */
export class DecoderLayer implements Module {
  readonly mixer: Mixer;
  readonly ffn: FeedForwardBlock;
  readonly #inputNorm: RMSNorm;
  readonly #postNorm: RMSNorm;
  readonly #ffnName: string;

  constructor(components: Components, weights: Weights) {
    const { gpu, model, layer, given } = weights;
    const spec = model.layers[layer]!;
    const make = <T>(
      what: string,
      table: Readonly<Record<string, (spec: ComponentSpec, weights: Weights) => T>>,
      part: ComponentSpec,
      prefix: string,
    ): T => {
      const factory = Object.hasOwn(table, part.type) ? table[part.type] : undefined;
      if (!factory)
        throw new ConfigError(
          "CausalLM",
          `layer ${layer} has the ${what} "${part.type}"; known: ${Object.keys(table).join(", ")}`,
        );
      return factory(part, { ...weights, given: given && subParameters(given, prefix) });
    };
    this.#ffnName = spec.ffn.type === "moe" ? "block_sparse_moe" : "mlp";
    this.mixer = make("mixer", components.mixers, spec.mixer as ComponentSpec, "self_attn");
    this.ffn = make("ffn", components.ffns, spec.ffn as ComponentSpec, this.#ffnName);
    const norm = (name: string): RMSNorm => {
      const options = { eps: model.normEps };
      if (!given) return RMSNorm.init(gpu, { dim: model.dim, ...options });
      const weight = checkParameter(
        "CausalLM",
        `${name}.weight`,
        takeParameter("CausalLM", given, `${name}.weight`),
        [model.dim],
      );
      return new RMSNorm(weight, options);
    };
    this.#inputNorm = norm("input_layernorm");
    this.#postNorm = norm("post_attention_layernorm");
  }

  forward(x: Tensor, context: ForwardContext, state?: MixerState): Tensor {
    const mixed = this.mixer.forward(this.#inputNorm.forward(x), context, state, x);
    return this.ffn.forward(this.#postNorm.forward(mixed), context, mixed);
  }

  parameters(): Record<string, Tensor> {
    return namedParameters({
      self_attn: this.mixer,
      [this.#ffnName]: this.ffn,
      input_layernorm: this.#inputNorm,
      post_attention_layernorm: this.#postNorm,
    });
  }
}
