import {
  add,
  ConfigError,
  embedding,
  linear,
  linearCrossEntropy,
  mul,
  randomNormal,
  subParameters,
  takeParameter,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { RMSNorm } from "@x/norm";
import {
  COMPONENTS,
  DecoderLayer,
  type Components,
  type ForwardContext,
  type MixerState,
} from "./components.js";
import type { ModelConfig } from "./config.js";

/** The states of all layers of a model, for decoding. */
export interface DecodingState {
  readonly layers: readonly MixerState[];
  readonly maxLength: number;
  readonly maxChunk: number;
  readonly bytesPerToken: number;
  clear(): void;
  dispose(): void;
}

/**
 * A decoder-only language model assembled from a configuration: embedding, pre-norm layers, final norm, head.
 *
 * Parameters are named as in Hugging Face checkpoints of the Llama family; experts are stacked
 * (block_sparse_moe.experts.gate_proj [experts, hidden, dim]).
 */
export class CausalLM implements Module {
  readonly config: ModelConfig;
  readonly gpu: Gpu;
  readonly layers: readonly DecoderLayer[];
  readonly #embedding: Tensor;
  readonly #norm: RMSNorm;
  readonly #head: Tensor | undefined;

  private constructor(
    gpu: Gpu,
    config: ModelConfig,
    components: Components,
    seed: number,
    given?: Readonly<Record<string, Tensor>>,
  ) {
    this.gpu = gpu;
    this.config = config;
    const { vocabSize, dim } = config;
    const matrix = (name: string, stream: number): Tensor => {
      if (!given) return gpu.keep(randomNormal(gpu, [vocabSize, dim], { seed, stream, std: 0.02 }));
      const tensor = takeParameter("CausalLM", given, name);
      if (tensor.rank !== 2 || tensor.shape[0] !== vocabSize || tensor.shape[1] !== dim) {
        throw new ConfigError(
          "CausalLM",
          `${name} has shape [${tensor.shape.join(", ")}]; the configuration says [${vocabSize}, ${dim}]`,
        );
      }
      return tensor;
    };
    this.#embedding = matrix("model.embed_tokens.weight", 0);
    this.#head = config.tieEmbeddings ? undefined : matrix("lm_head.weight", 1);
    this.layers = config.layers.map(
      (_, layer) =>
        new DecoderLayer(components, {
          gpu,
          model: config,
          layer,
          seed,
          given: given && subParameters(given, `model.layers.${layer}`),
        }),
    );
    this.#norm = given
      ? new RMSNorm(takeParameter("CausalLM", given, "model.norm.weight"), { eps: config.normEps })
      : RMSNorm.init(gpu, { dim, eps: config.normEps });
  }

  /** Random weights. */
  static init(
    gpu: Gpu,
    config: ModelConfig,
    options: { readonly seed: number; readonly components?: Components },
  ): CausalLM {
    return new CausalLM(gpu, config, options.components ?? COMPONENTS, options.seed);
  }

  /** Weights by name. @throws ConfigError naming what is missing or has another shape. */
  static fromParameters(
    gpu: Gpu,
    config: ModelConfig,
    parameters: Readonly<Record<string, Tensor>>,
    components: Components = COMPONENTS,
  ): CausalLM {
    return new CausalLM(gpu, config, components, 0, parameters);
  }

  /** Hidden states after the final norm: ids i32 [batch, seq] -> [batch, seq, dim]. */
  hidden(ids: Tensor, context?: Partial<ForwardContext>, state?: DecodingState): Tensor {
    const whole: ForwardContext = { seqLen: state?.maxLength ?? ids.shape[1] ?? 0, ...context };
    // The layers' losses outlive the scope with the result.
    return this.gpu.scope(() => {
      let x = embedding(this.#embedding, ids);
      this.layers.forEach((layer, i) => {
        x = layer.forward(x, whole, state?.layers[i]);
      });
      return { x: this.#norm.forward(x), losses: whole.losses ?? [] };
    }).x;
  }

  /** Logits of hidden states. */
  head(hidden: Tensor): Tensor {
    return linear(hidden, this.#head ?? this.#embedding);
  }

  /** Logits of every position: [batch, seq, vocab]. */
  forward(ids: Tensor, context?: Partial<ForwardContext>, state?: DecodingState): Tensor {
    return this.gpu.scope(() => this.head(this.hidden(ids, context, state)));
  }

  /** Mean cross-entropy of targets i32 [batch, seq] (-100: not counted), and the whole loss with the layers' own. */
  loss(ids: Tensor, targets: Tensor): { total: Tensor; crossEntropy: Tensor } {
    return this.gpu.scope(() => {
      const losses: Tensor[] = [];
      const hidden = this.hidden(ids, { losses });
      const crossEntropy = linearCrossEntropy(hidden, this.#head ?? this.#embedding, targets);
      let total = crossEntropy;
      for (const loss of losses) total = add(total, mul(loss.reshape([]), 1 / losses.length));
      return { total, crossEntropy };
    });
  }

  /** Caches of a decoding run; each is a ring where the layer has a window. */
  createState(options: {
    readonly batch?: number;
    readonly maxLength: number;
    readonly maxChunk?: number;
  }): DecodingState {
    const { batch = 1, maxLength, maxChunk = 64 } = options;
    const layers = this.layers.map((layer) => layer.mixer.createState({ batch, maxLength, maxChunk }));
    return {
      layers,
      maxLength,
      maxChunk,
      bytesPerToken: layers.reduce((n, s) => n + s.bytesPerToken, 0),
      clear: () => {
        for (const state of layers) state.clear();
      },
      dispose: () => {
        for (const state of layers) state.dispose();
      },
    };
  }

  /** All parameters, and those that one token uses. */
  countParameters(): { total: number; active: number } {
    const total = Object.values(this.parameters()).reduce((n, t) => n + t.size, 0);
    const idle = this.layers.reduce(
      (n, layer) =>
        n +
        Object.values(layer.ffn.parameters()).reduce((m, t) => m + t.size, 0) -
        layer.ffn.activeParameters,
      0,
    );
    return { total, active: total - idle };
  }

  parameters(): Record<string, Tensor> {
    const out: Record<string, Tensor> = { "model.embed_tokens.weight": this.#embedding };
    this.layers.forEach((layer, i) => {
      for (const [name, tensor] of Object.entries(layer.parameters()))
        out[`model.layers.${i}.${name}`] = tensor;
    });
    out["model.norm.weight"] = this.#norm.weight;
    if (this.#head) out["lm_head.weight"] = this.#head;
    return out;
  }

  dispose(): void {
    for (const tensor of Object.values(this.parameters())) tensor.dispose();
  }
}
