import {
  add,
  cast,
  crossEntropy,
  embedding,
  linear,
  isAdapted,
  linearCrossEntropy,
  mul,
  subParameters,
  tanh,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import {
  COMPONENTS,
  ParameterSet,
  type Block,
  type Components,
  type ForwardContext,
} from "../components/index.js";
import type { ModelConfig } from "../config/index.js";
import { Stack, type DecodingState, type DecodingStateOptions, type StackWeights } from "./stack.js";

export type { DecodingState } from "./stack.js";

/** What a loss may be told besides ids and targets. */
export type LossContext = Partial<Pick<ForwardContext, "training" | "losses" | "encoded">>;

/**
 * A decoder-only language model assembled from a configuration: embedding, blocks, final norm, head. What the blocks
 * are made of, and where a token is, is the components' matter.
 *
 * Parameters are named as in Hugging Face checkpoints of the Llama family; experts are stacked
 * (block_sparse_moe.experts.gate_proj [experts, hidden, dim]).
 */
export class CausalLM implements Module {
  readonly config: ModelConfig;
  readonly gpu: Gpu;
  readonly #embedding: Tensor;
  readonly #head: Tensor | undefined;
  readonly #stack: Stack;
  readonly #adopted: Tensor[] = [];

  private constructor(config: ModelConfig, weights: StackWeights) {
    this.gpu = weights.gpu;
    this.config = config;
    const { vocabSize, dim } = config;
    const root = { ...weights, model: config, layer: -1 };
    const matrix = (name: string): Tensor => {
      const given = weights.given && subParameters(weights.given, name);
      return new ParameterSet({ ...root, name, given }).normal("weight", [vocabSize, dim]);
    };
    this.#embedding = matrix("model.embed_tokens");
    this.#head = config.tieEmbeddings ? undefined : matrix("lm_head");
    this.#stack = new Stack(config, "model", weights);
  }

  /** Random weights: each parameter from a stream of its own name. */
  static init(
    gpu: Gpu,
    config: ModelConfig,
    options: { readonly seed: number; readonly components?: Components },
  ): CausalLM {
    const made: Tensor[] = [];
    const { seed, components = COMPONENTS } = options;
    try {
      return new CausalLM(config, { gpu, components, seed, made });
    } catch (error) {
      for (const tensor of made) tensor.dispose();
      throw error;
    }
  }

  /**
   * Weights by name; `missing` says why one is not there, for what the weights were read from.
   *
   * @throws ConfigError naming what is missing or has another shape
   */
  static fromParameters(
    gpu: Gpu,
    config: ModelConfig,
    parameters: Readonly<Record<string, Tensor>>,
    components: Components = COMPONENTS,
    missing?: (name: string) => Error,
  ): CausalLM {
    return new CausalLM(config, { gpu, components, seed: 0, made: [], given: parameters, missing });
  }

  /**
   * Whether the tokens of a text of `from` tokens have other keys and hidden states once it has `to` tokens, as with
   * longrope beyond the trained length, and with dynamicNtk for each token beyond it. Decoding then runs the whole
   * text again: the layers above the first depend on all the rotations of those below.
   */
  changes(from: number, to: number): boolean {
    return this.#stack.changes(from, to);
  }

  /** Positions that there are vectors for; undefined where the encoding has no end. */
  get positions(): number | undefined {
    return this.#stack.positions;
  }

  /** Tokens of the longest text that the model is made for. */
  get context(): number {
    return Math.min(this.config.maxLength, this.positions ?? Infinity);
  }

  get layers(): readonly Block[] {
    return this.#stack.layers;
  }

  /** Embeddings of ids i32 [batch, seq]: [batch, seq, dim]. */
  embed(ids: Tensor): Tensor {
    return this.gpu.scope(() => {
      const x = embedding(this.#embedding, ids);
      // A half table on a device with shader-f16; the stream is f32.
      const wide = x.dtype === "f16" ? cast(x, "f32") : x;
      return this.config.embedScale === 1 ? wide : mul(wide, this.config.embedScale);
    });
  }

  /**
   * Hidden states after the final norm: ids i32 [batch, seq] -> [batch, seq, dim], or [batch, 1, dim] of the last
   * position with `lastOnly`. With a state, a model whose rotations look at the length needs `textLength`.
   *
   * @throws ConfigError for a state that was made for another length, where that makes a difference
   */
  hidden(ids: Tensor, context?: Partial<ForwardContext>, state?: DecodingState): Tensor {
    return this.#stack.forward(() => this.embed(ids), ids.shape[1] ?? 0, context, state);
  }

  /** The output matrix [vocab, dim]; the embedding where they are tied. */
  get headWeight(): Tensor {
    return this.#head ?? this.#embedding;
  }

  /** Logits of hidden states. */
  head(hidden: Tensor): Tensor {
    const { logitScale, logitSoftcap: cap } = this.config;
    const logits = linear(hidden, this.headWeight);
    if (logitScale === 1 && cap === 0) return logits;
    return this.gpu.scope(() => {
      const scaled = logitScale === 1 ? logits : mul(logits, logitScale);
      return cap === 0 ? scaled : mul(tanh(mul(scaled, 1 / cap)), cap);
    });
  }

  /** Logits of every position: [batch, seq, vocab] (of the last one with `lastOnly`). */
  forward(ids: Tensor, context?: Partial<ForwardContext>, state?: DecodingState): Tensor {
    return this.gpu.scope(() => this.head(this.hidden(ids, context, state)));
  }

  /**
   * Mean cross-entropy of targets i32 [batch, seq] (-100: not counted), and the whole loss: in training with the
   * layers' own, and those that `losses` holds already. A decoder of an encoder-decoder needs the context's `encoded`.
   */
  loss(ids: Tensor, targets: Tensor, context: LossContext = {}): { total: Tensor; crossEntropy: Tensor } {
    return this.gpu.scope(() => {
      const { losses = [], ...rest } = context;
      const hidden = this.hidden(ids, { ...rest, ...(context.training ? { losses } : {}) });
      const nll = this.#crossEntropy(hidden, targets);
      let total = nll;
      for (const loss of losses) total = add(total, mul(loss.reshape([]), 1 / losses.length));
      return { total, crossEntropy: nll };
    });
  }

  /** A cap stands between the product and the loss, so that they cannot be one. */
  #crossEntropy(hidden: Tensor, targets: Tensor): Tensor {
    const { logitScale, logitSoftcap } = this.config;
    // A head with an adapter is more than its matrix.
    if (logitSoftcap !== 0 || isAdapted(this.headWeight)) return crossEntropy(this.head(hidden), targets);
    return linearCrossEntropy(logitScale === 1 ? hidden : mul(hidden, logitScale), this.headWeight, targets);
  }

  /** What parts do after each training step (running statistics, balancing biases). */
  afterStep(): void {
    this.#stack.afterStep();
  }

  /** Caches of a decoding run; each is a ring where the layer has a window. */
  createState(options: DecodingStateOptions): DecodingState {
    return this.#stack.createState(options);
  }

  /** All parameters, and those that one token uses. */
  countParameters(): { total: number; active: number } {
    const total = Object.values(this.parameters()).reduce((n, t) => n + t.size, 0);
    return { total, active: total - this.#stack.idleParameters };
  }

  /** What training changes. */
  parameters(): Record<string, Tensor> {
    return {
      "model.embed_tokens.weight": this.#embedding,
      ...this.#stack.parameters(),
      ...(this.#head ? { "lm_head.weight": this.#head } : {}),
    };
  }

  /** What a checkpoint holds besides. */
  buffers(): Record<string, Tensor> {
    return this.#stack.buffers();
  }

  /** Everything that a checkpoint holds. */
  state(): Record<string, Tensor> {
    return { ...this.parameters(), ...this.buffers() };
  }

  /** Frees these tensors with the model. */
  adopt(tensors: readonly Tensor[]): void {
    this.#adopted.push(...tensors);
  }

  dispose(): void {
    for (const tensor of [...Object.values(this.state()), ...this.#adopted]) tensor.dispose();
    this.#stack.dispose();
  }
}

/** What generating needs of a model: all of a decoder-only one, or a decoder that has been given a text to attend to. */
export type Decoder = Pick<
  CausalLM,
  "gpu" | "config" | "changes" | "positions" | "context" | "createState" | "hidden" | "head" | "forward"
>;
