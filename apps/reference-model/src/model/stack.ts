import { ConfigError, slice, subParameters, type Gpu, type Tensor } from "@x/kernels";
import {
  below,
  Block,
  find,
  type Components,
  type Encoding,
  type ForwardContext,
  type LayerState,
  type Norm,
  type Part,
} from "../components/index.js";
import { named } from "../components/layer.js";
import type { ComponentSpec, ModelConfig } from "../config/index.js";

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

export interface DecodingStateOptions {
  readonly batch?: number;
  readonly maxLength: number;
  readonly maxChunk?: number;
}

/** Where a stack takes its weights from: a checkpoint's tensors by name, or a seed. */
export interface StackWeights {
  readonly gpu: Gpu;
  readonly components: Components;
  readonly seed: number;
  /** Collects what was made. */
  readonly made: Tensor[];
  readonly given?: Readonly<Record<string, Tensor>> | undefined;
  /** Why a tensor is not among them. */
  readonly missing?: ((name: string) => Error) | undefined;
}

/** Blocks one above the other, from embeddings to the hidden states after the final norm. */
export class Stack {
  readonly layers: readonly Block[];
  readonly #gpu: Gpu;
  /** What stands before the names of its tensors: "model", "encoder". */
  readonly #name: string;
  readonly #encodings: readonly Encoding[];
  readonly #embedNorm: Norm | undefined;
  readonly #finalNorm: Norm | undefined;
  /** Number of the first layer from which on no layer mixes tokens by itself. */
  readonly #tokenwiseFrom: number;

  /** @throws ConfigError */
  constructor(config: ModelConfig, name: string, { given, ...weights }: StackWeights) {
    const { components } = weights;
    this.#gpu = weights.gpu;
    this.#name = name;
    const root = { ...weights, model: config, layer: -1 };
    const at = (part: string): typeof root & { name: string; given: typeof given } => ({
      ...root,
      name: part,
      given: given && subParameters(given, part),
    });
    const bare = { gain: 1, encoding: { parameters: () => ({}) } };
    // Equal encodings are one.
    const keys = config.layers.map(({ position }) => JSON.stringify(position));
    const distinct = [...new Set(keys)];
    this.#encodings = distinct.map((key, i) => {
      const spec = config.layers[keys.indexOf(key)]!.position;
      const part = `${name}.positions.${i}`;
      return find("position", components.encodings, spec, part)(spec, { ...at(part), ...bare });
    });
    this.layers = config.layers.map(
      (_, layer) =>
        new Block(
          { ...at(`${name}.layers.${layer}`), layer },
          this.#encodings[distinct.indexOf(keys[layer]!)]!,
        ),
    );
    const norm = (spec: ComponentSpec | undefined, part: string): Norm | undefined =>
      spec &&
      find("norm", components.norms, spec, part)(spec, { ...below(at(name), part), ...bare }, config.dim);
    this.#embedNorm = norm(config.embedNorm, "embed_norm");
    this.#finalNorm = norm(config.finalNorm, "norm");
    this.#tokenwiseFrom = this.layers.findLastIndex(({ mixer }) => mixer.tokenwise !== true) + 1;
  }

  /** Whether the tokens of a text of `from` tokens have other keys and hidden states once it has `to` tokens. */
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
   * Hidden states after the final norm: embeddings [batch, seq, dim] -> [batch, seq, dim], or [batch, 1, dim] of the
   * last position with `lastOnly`.
   *
   * @throws ConfigError for a text beyond the positions, and for a state that was made for another length
   */
  forward(
    embed: () => Tensor,
    seq: number,
    context?: Partial<ForwardContext>,
    state?: DecodingState,
  ): Tensor {
    const seqLen = context?.seqLen ?? state?.maxLength ?? seq;
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
    return this.#gpu.scope(() => {
      let x = embed();
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

  /** Caches of a decoding run; each is a ring where the layer has a window. */
  createState({ batch = 1, maxLength, maxChunk = 64 }: DecodingStateOptions): DecodingState {
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

  /** Parameters that no single token uses: those of experts that are not chosen. */
  get idleParameters(): number {
    return this.layers.reduce(
      (n, { ffn }) =>
        n + Object.values(ffn.parameters()).reduce((m, t) => m + t.size, 0) - ffn.activeParameters,
      0,
    );
  }

  #parts(): [string, Part][] {
    const name = this.#name;
    return [
      ...this.#encodings.map((encoding, i) => [`${name}.positions.${i}`, encoding] as [string, Part]),
      ...(this.#embedNorm ? ([[`${name}.embed_norm`, this.#embedNorm]] as [string, Part][]) : []),
      ...this.layers.map((layer, i) => [`${name}.layers.${i}`, layer] as [string, Part]),
      ...(this.#finalNorm ? ([[`${name}.norm`, this.#finalNorm]] as [string, Part][]) : []),
    ];
  }

  /** What training changes, under its full names. */
  parameters(): Record<string, Tensor> {
    return named(this.#parts(), (part) => part.parameters());
  }

  /** What a checkpoint holds besides. */
  buffers(): Record<string, Tensor> {
    return named(this.#parts(), (part) => part.buffers?.() ?? {});
  }

  /** What parts do after each training step (running statistics, balancing biases). */
  afterStep(): void {
    for (const [, part] of this.#parts()) part.afterStep?.();
  }

  /** Frees what parts keep besides parameters and buffers; those are the model's. */
  dispose(): void {
    for (const [, part] of this.#parts()) part.dispose?.();
  }
}
