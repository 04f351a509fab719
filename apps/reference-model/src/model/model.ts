import {
  add,
  cast,
  ConfigError,
  crossEntropy,
  embedding,
  linear,
  linearCrossEntropy,
  mul,
  slice,
  subParameters,
  tanh,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import {
  below,
  COMPONENTS,
  DecoderLayer,
  find,
  ParameterSet,
  type Components,
  type Encoding,
  type ForwardContext,
  type LayerState,
  type Norm,
  type Part,
} from "../components/index.js";
import { named } from "../components/layer.js";
import type { ModelConfig } from "../config/index.js";

/** The states of all layers of a model, for decoding. */
export interface DecodingState {
  readonly layers: readonly LayerState[];
  readonly maxLength: number;
  readonly maxChunk: number;
  readonly bytesPerToken: number;
  /** Length of the text that the held tokens were computed for; undefined while there are none. */
  textLength: number | undefined;
  clear(): void;
  dispose(): void;
}

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
  readonly layers: readonly DecoderLayer[];
  readonly #embedding: Tensor;
  readonly #head: Tensor | undefined;
  readonly #encodings: readonly Encoding[];
  readonly #embedNorm: Norm | undefined;
  readonly #finalNorm: Norm | undefined;
  /** Number of the first layer from which on no layer mixes tokens by itself. */
  readonly #tokenwiseFrom: number;

  private constructor(
    gpu: Gpu,
    config: ModelConfig,
    components: Components,
    seed: number,
    made: Tensor[],
    given?: Readonly<Record<string, Tensor>>,
    missing?: (name: string) => Error,
  ) {
    this.gpu = gpu;
    this.config = config;
    const { vocabSize, dim } = config;
    const root = { gpu, model: config, components, seed, made, missing, layer: -1 };
    const at = (name: string): typeof root & { name: string; given: typeof given } => ({
      ...root,
      name,
      given: given && subParameters(given, name),
    });
    const matrix = (name: string): Tensor => new ParameterSet(at(name)).normal("weight", [vocabSize, dim]);
    this.#embedding = matrix("model.embed_tokens");
    this.#head = config.tieEmbeddings ? undefined : matrix("lm_head");
    // Equal encodings are one.
    const keys = config.layers.map(({ position }) => JSON.stringify(position));
    const distinct = [...new Set(keys)];
    this.#encodings = distinct.map((key, i) => {
      const spec = config.layers[keys.indexOf(key)]!.position;
      const name = `model.positions.${i}`;
      const weights = { ...at(name), gain: 1, encoding: { parameters: () => ({}) } };
      return find("position", components.encodings, spec, name)(spec, weights);
    });
    this.layers = config.layers.map(
      (_, layer) =>
        new DecoderLayer(
          { ...at(`model.layers.${layer}`), layer },
          this.#encodings[distinct.indexOf(keys[layer]!)]!,
        ),
    );
    const norm = (spec: ModelConfig["finalNorm"], name: string): Norm | undefined =>
      spec &&
      find(
        "norm",
        components.norms,
        spec,
        name,
      )(spec, { ...below(at("model"), name), gain: 1, encoding: { parameters: () => ({}) } }, dim);
    this.#embedNorm = norm(config.embedNorm, "embed_norm");
    this.#finalNorm = norm(config.finalNorm, "norm");
    this.#tokenwiseFrom = this.layers.findLastIndex(({ mixer }) => mixer.tokenwise !== true) + 1;
  }

  /** Random weights: each parameter from a stream of its own name. */
  static init(
    gpu: Gpu,
    config: ModelConfig,
    options: { readonly seed: number; readonly components?: Components },
  ): CausalLM {
    const made: Tensor[] = [];
    try {
      return new CausalLM(gpu, config, options.components ?? COMPONENTS, options.seed, made);
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
    return new CausalLM(gpu, config, components, 0, [], parameters, missing);
  }

  /**
   * Whether the tokens of a text of `from` tokens have other keys and hidden states once it has `to` tokens, as with
   * longrope beyond the trained length, and with dynamicNtk for each token beyond it. Decoding then runs the whole
   * text again: the layers above the first depend on all the rotations of those below.
   */
  changes(from: number, to: number): boolean {
    return this.#encodings.some((encoding) => encoding.changes?.(from, to) ?? false);
  }

  /** Positions that there are vectors for; undefined where the encoding has no end. */
  get positions(): number | undefined {
    const ends = this.#encodings.flatMap(({ maxPositions }) =>
      maxPositions === undefined ? [] : [maxPositions],
    );
    return ends.length === 0 ? undefined : Math.min(...ends);
  }

  /** Tokens of the longest text that the model is made for. */
  get context(): number {
    return Math.min(this.config.maxLength, this.positions ?? Infinity);
  }

  /** The length of the text of a call; with a state it has to agree with what the state holds. */
  #textLength(given: number | undefined, seqLen: number, state: DecodingState | undefined): number {
    if (!state) return given ?? seqLen;
    if (given === undefined && this.changes(1, seqLen))
      throw new ConfigError(
        "CausalLM",
        "textLength is missing; with a state, this model's rotations need the length of the whole text",
      );
    const length = given ?? seqLen;
    if (state.textLength !== undefined && this.changes(state.textLength, length))
      throw new ConfigError(
        "CausalLM",
        `the state is that of a text of ${state.textLength} tokens, whose rotations are others than those of ${length} tokens; clear it and run the text again`,
      );
    return (state.textLength = length);
  }

  /**
   * Hidden states after the final norm: ids i32 [batch, seq] -> [batch, seq, dim], or [batch, 1, dim] of the last
   * position with `lastOnly`. With a state, a model whose rotations look at the length needs `textLength`.
   *
   * @throws ConfigError for a state that was made for another length, where that makes a difference
   */
  hidden(ids: Tensor, context?: Partial<ForwardContext>, state?: DecodingState): Tensor {
    const seqLen = context?.seqLen ?? state?.maxLength ?? ids.shape[1] ?? 0;
    const { positions } = this;
    if (positions !== undefined && seqLen > positions)
      throw new ConfigError(
        "CausalLM",
        `a text of ${seqLen} tokens is given; the model has vectors for ${positions} positions`,
      );
    let whole: ForwardContext = {
      seqLen,
      training: false,
      shared: new Map(),
      ...context,
      textLength: this.#textLength(context?.textLength, seqLen, state),
    };
    // The layers' losses outlive the scope with the result.
    return this.gpu.scope(() => {
      let x = embedding(this.#embedding, ids);
      // A half table on a device with shader-f16; the stream is f32.
      if (x.dtype === "f16") x = cast(x, "f32");
      if (this.config.embedScale !== 1) x = mul(x, this.config.embedScale);
      for (const encoding of this.#encodings) if (encoding.input) x = encoding.input(x, whole);
      if (this.#embedNorm) x = this.#embedNorm.forward(x, whole);
      const last = (t: Tensor): Tensor => slice(t, { axis: 1, start: t.shape[1]! - 1 });
      this.layers.forEach((layer, i) => {
        layer.mixer.prepare?.(x, whole, state?.layers[i]?.mixer);
        if (whole.lastOnly && i === this.#tokenwiseFrom && x.shape[1]! > 1) {
          x = last(x);
          whole = { ...whole, ...(whole.positionIds ? { positionIds: last(whole.positionIds) } : {}) };
        }
        x = layer.forward(x, whole, state?.layers[i]);
      });
      if (whole.lastOnly && x.shape[1]! > 1) x = last(x);
      if (this.#finalNorm) x = this.#finalNorm.forward(x, whole);
      return { x, losses: whole.losses ?? [] };
    }).x;
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
   * layers' own.
   */
  loss(
    ids: Tensor,
    targets: Tensor,
    { training = false }: { readonly training?: boolean } = {},
  ): { total: Tensor; crossEntropy: Tensor } {
    return this.gpu.scope(() => {
      const losses: Tensor[] = [];
      const hidden = this.hidden(ids, { training, ...(training ? { losses } : {}) });
      const nll = this.#crossEntropy(hidden, targets);
      let total = nll;
      for (const loss of losses) total = add(total, mul(loss.reshape([]), 1 / losses.length));
      return { total, crossEntropy: nll };
    });
  }

  /** A cap stands between the product and the loss, so that they cannot be one. */
  #crossEntropy(hidden: Tensor, targets: Tensor): Tensor {
    const { logitScale, logitSoftcap } = this.config;
    if (logitSoftcap !== 0) return crossEntropy(this.head(hidden), targets);
    return linearCrossEntropy(logitScale === 1 ? hidden : mul(hidden, logitScale), this.headWeight, targets);
  }

  /** What parts do after each training step (running statistics, balancing biases). */
  afterStep(): void {
    for (const [, part] of this.#parts()) part.afterStep?.();
  }

  /** Caches of a decoding run; each is a ring where the layer has a window. */
  createState(options: {
    readonly batch?: number;
    readonly maxLength: number;
    readonly maxChunk?: number;
  }): DecodingState {
    const { batch = 1, maxLength, maxChunk = 64 } = options;
    const layers = this.layers.map((layer) => layer.createState({ batch, maxLength, maxChunk }));
    const state: DecodingState = {
      layers,
      maxLength,
      maxChunk,
      textLength: undefined,
      bytesPerToken: layers.reduce((n, s) => n + s.bytesPerToken, 0),
      clear: () => {
        for (const layer of layers) layer.clear();
        state.textLength = undefined;
      },
      dispose: () => {
        for (const layer of layers) layer.dispose();
      },
    };
    return state;
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

  #parts(): [string, Part][] {
    return [
      ...this.#encodings.map((encoding, i) => [`model.positions.${i}`, encoding] as [string, Part]),
      ...(this.#embedNorm ? ([["model.embed_norm", this.#embedNorm]] as [string, Part][]) : []),
      ...this.layers.map((layer, i) => [`model.layers.${i}`, layer] as [string, Part]),
      ...(this.#finalNorm ? ([["model.norm", this.#finalNorm]] as [string, Part][]) : []),
    ];
  }

  /** What training changes. */
  parameters(): Record<string, Tensor> {
    return {
      "model.embed_tokens.weight": this.#embedding,
      ...named(this.#parts(), (part) => part.parameters()),
      ...(this.#head ? { "lm_head.weight": this.#head } : {}),
    };
  }

  /** What a checkpoint holds besides. */
  buffers(): Record<string, Tensor> {
    return named(this.#parts(), (part) => part.buffers?.() ?? {});
  }

  /** Everything that a checkpoint holds. */
  state(): Record<string, Tensor> {
    return { ...this.parameters(), ...this.buffers() };
  }

  dispose(): void {
    for (const tensor of Object.values(this.state())) tensor.dispose();
    for (const [, part] of this.#parts()) part.dispose?.();
  }
}
