import type { Gpu, Module, Tensor } from "@x/kernels";
import { COMPONENTS, type Components, type Encoded } from "../components/index.js";
import { ENCODER_DECODER_MIXERS } from "../components/mixers/encoder_decoder.js";
import type { EncoderDecoderConfig } from "../config/index.js";
import type { Limits } from "./context.js";
import { CausalLM, type Decoder, type LossContext } from "./model.js";
import { Stack, type StackWeights } from "./stack.js";

/** What an encoder may be told besides ids. */
export interface EncodeOptions extends Pick<LossContext, "training" | "losses"> {
  /** i32 [batch, seq]: 1 for tokens, 0 for padding, which changes nothing then. Default: all are tokens. */
  readonly keyMask?: Tensor | undefined;
}

const withMixers = (components: Components): Components => ({
  ...components,
  mixers: { ...components.mixers, ...ENCODER_DECODER_MIXERS },
});

/**
 * An encoder-decoder language model (T5): an encoder reads a whole text, a decoder writes another one and attends to the
 * encoder's output in each block. Both embed tokens with one table.
 *
 * The decoder is a `CausalLM` with the names of its parameters; those of the encoder begin with "encoder." in place of
 * "model.".
 */
export class EncoderDecoderLM implements Module {
  readonly gpu: Gpu;
  readonly config: EncoderDecoderConfig;
  /** Its passes need the context's `encoded`. */
  readonly decoder: CausalLM;
  readonly #encoder: Stack;

  private constructor(config: EncoderDecoderConfig, decoder: CausalLM, weights: StackWeights) {
    this.gpu = weights.gpu;
    this.config = config;
    this.decoder = decoder;
    this.#encoder = new Stack(config.encoder, "encoder", weights);
  }

  /** Random weights: each parameter from a stream of its own name. */
  static init(
    gpu: Gpu,
    config: EncoderDecoderConfig,
    options: { readonly seed: number; readonly components?: Components },
  ): EncoderDecoderLM {
    const components = withMixers(options.components ?? COMPONENTS);
    const { seed } = options;
    const decoder = CausalLM.init(gpu, config.decoder, { seed, components });
    const made: Tensor[] = [];
    try {
      return new EncoderDecoderLM(config, decoder, { gpu, components, seed, made });
    } catch (error) {
      for (const tensor of made) tensor.dispose();
      decoder.dispose();
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
    config: EncoderDecoderConfig,
    parameters: Readonly<Record<string, Tensor>>,
    components: Components = COMPONENTS,
    missing?: (name: string) => Error,
  ): EncoderDecoderLM {
    const all = withMixers(components);
    const decoder = CausalLM.fromParameters(gpu, config.decoder, parameters, all, missing);
    const weights = { gpu, components: all, seed: 0, made: [], given: parameters, missing };
    return new EncoderDecoderLM(config, decoder, weights);
  }

  /** The lengths that the encoder can take. */
  get encoderLimits(): Limits {
    return { positions: this.#encoder.positions, config: this.config.encoder };
  }

  /** Bytes that a decoding run holds for each token of the encoder's text. */
  get contextBytesPerToken(): number {
    return this.decoder.layers.reduce((n, { cross }) => n + (cross?.contextBytesPerToken ?? 0), 0);
  }

  /**
   * The encoder's output after its final norm: ids i32 [batch, keys] -> states [batch, keys, dim].
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  encode(ids: Tensor, { keyMask, ...context }: EncodeOptions = {}): Encoded {
    const embed = (): Tensor => this.decoder.embed(ids);
    const states = this.#encoder.forward(embed, ids.shape[1] ?? 0, { ...context, keyMask });
    return { states, keyMask };
  }

  /**
   * Logits of the decoder's positions: ids i32 [batch, keys] of the encoder and decoderIds i32 [batch, seq] ->
   * [batch, seq, vocab]; position t predicts the id after decoderIds[t].
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  forward(ids: Tensor, decoderIds: Tensor, options: EncodeOptions = {}): Tensor {
    return this.gpu.scope(() =>
      this.decoder.forward(decoderIds, { encoded: this.encode(ids, options), ...trainingOf(options) }),
    );
  }

  /**
   * Mean cross-entropy of targets i32 [batch, seq], target t of the logits at position t (-100: not counted), and the
   * whole loss: in training with the layers' own.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  loss(
    ids: Tensor,
    decoderIds: Tensor,
    targets: Tensor,
    options: EncodeOptions = {},
  ): { total: Tensor; crossEntropy: Tensor } {
    const { training = false, losses = [] } = options;
    return this.gpu.scope(() => {
      const encoded = this.encode(ids, training ? { ...options, losses } : options);
      return this.decoder.loss(decoderIds, targets, { encoded, training, losses });
    });
  }

  /** What the decoder reads where it is to write `labels`: the start id, then all labels but the last (-100: padding). */
  decoderInputs(labels: readonly number[]): number[] {
    const { decoderStartTokenId, padTokenId } = this.config;
    return [decoderStartTokenId, ...labels.slice(0, -1).map((id) => (id === -100 ? padTokenId : id))];
  }

  /** The decoder with a text to attend to, for `generate` and `beamSearch`; the batch is that of `encoded`. */
  conditioned(encoded: Encoded): Decoder {
    const { decoder, gpu } = this;
    const { config, positions, context } = decoder;
    return {
      ...{ gpu, config, positions, context },
      changes: (from, to) => decoder.changes(from, to),
      createState: (options) => decoder.createState(options),
      hidden: (ids, given, state) => decoder.hidden(ids, { ...given, encoded }, state),
      head: (hidden) => decoder.head(hidden),
      forward: (ids, given, state) => decoder.forward(ids, { ...given, encoded }, state),
    };
  }

  /** What parts do after each training step (running statistics, balancing biases). */
  afterStep(): void {
    this.#encoder.afterStep();
    this.decoder.afterStep();
  }

  /** All parameters, and those that one token of input and one of output use. */
  countParameters(): { total: number; active: number } {
    const total = Object.values(this.parameters()).reduce((n, t) => n + t.size, 0);
    const decoder = this.decoder.countParameters();
    return { total, active: total - this.#encoder.idleParameters - (decoder.total - decoder.active) };
  }

  /** What training changes. */
  parameters(): Record<string, Tensor> {
    return { ...this.decoder.parameters(), ...this.#encoder.parameters() };
  }

  /** What a checkpoint holds besides. */
  buffers(): Record<string, Tensor> {
    return { ...this.decoder.buffers(), ...this.#encoder.buffers() };
  }

  /** Everything that a checkpoint holds. */
  state(): Record<string, Tensor> {
    return { ...this.parameters(), ...this.buffers() };
  }

  dispose(): void {
    for (const tensor of Object.values({ ...this.#encoder.parameters(), ...this.#encoder.buffers() }))
      tensor.dispose();
    this.#encoder.dispose();
    this.decoder.dispose();
  }
}

/** What the decoder needs to know about training. */
const trainingOf = ({ training = false, losses }: EncodeOptions): LossContext => ({
  training,
  ...(losses ? { losses } : {}),
});
