import type { AttentionPosition } from "@x/attention";
import type { Gpu, Module, State, Tensor } from "@x/kernels";
import type { ComponentSpec, ModelConfig } from "../config/index.js";

/** What a decoder attends to: an encoder's output. */
export interface Encoded {
  /** [batch, keys, dim] */
  readonly states: Tensor;
  /** i32 [batch, keys]: 0 hides a token (padding). */
  readonly keyMask?: Tensor | undefined;
}

/** What a layer's parts may look at in a forward pass. */
export interface ForwardContext {
  /** All positions of this call are below it: the length of the sequence, or of the longest that a state holds. */
  readonly seqLen: number;
  /** Tokens of the whole text, those of the state included: what rotations look at that change with the length. */
  readonly textLength: number;
  /** i32 [batch, seq], with a cache. */
  readonly positionIds?: Tensor | undefined;
  /** In an encoder, i32 [batch, seq]: 0 hides a token (padding). */
  readonly keyMask?: Tensor | undefined;
  /** In a decoder of an encoder-decoder. */
  readonly encoded?: Encoded | undefined;
  /** Statistics come from the batch, and what only training has (noise, dropping) is on. */
  readonly training: boolean;
  /** Losses that layers add to the model's (balancing), collected in training. */
  readonly losses?: Tensor[] | undefined;
  /** The caller needs the last position only: layers above the last one that mixes tokens may leave the others out. */
  readonly lastOnly?: boolean | undefined;
  /** What layers share in one pass (YOCO's keys and values), by a name of theirs. */
  readonly shared: Map<string, unknown>;
  /** Sees what a part does inside, under the part's name ("model.layers.0.mlp.router"); see `Observer`. */
  readonly observe?: Observer | undefined;
  /** Runs each feed-forward block in place of the layer (facts are read and changed so). */
  readonly runFfn?: FfnRunner | undefined;
}

/** The block's output, `residual` included: `block.forward`, and what the caller makes of it. */
export type FfnRunner = (
  block: FeedForwardBlock,
  x: Tensor,
  context: ForwardContext,
  residual?: Tensor,
) => Tensor;

/** Receives intermediate tensors, which are valid until the pass ends; `gpu.keep` makes one last longer. */
export type Observer = (name: string, values: Readonly<Record<string, Tensor>>) => void;

/** A part with parameters, which training changes, and buffers, which it does not but a checkpoint holds. */
export interface Part extends Module {
  buffers?(): Record<string, Tensor>;
  /** Called after each training step, inside what is recorded. */
  afterStep?(): void;
  /** Frees what the part keeps besides parameters and buffers (tables). */
  dispose?(): void;
}

export interface Norm extends Part {
  forward(x: Tensor, context: ForwardContext): Tensor;
}

/** What an encoding does in one attention layer; its parameters lie under the layer's. */
export type AttentionEncoding = AttentionPosition & Part;

export interface AttentionShape {
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Queries see later keys as well (an encoder). */
  readonly bidirectional?: boolean;
}

/** Where tokens are. Absolute encodings act on the embeddings, others inside attention. */
export interface Encoding extends Part {
  input?(x: Tensor, context: ForwardContext): Tensor;
  /** Positions that there are; absent: any. */
  readonly maxPositions?: number;
  /** Whether a text of `to` tokens is encoded otherwise than one of `from` tokens: a state made for it is then stale. */
  changes?(from: number, to: number): boolean;
  /** The encoding's part of one layer. */
  attention?(weights: Weights, shape: AttentionShape): AttentionEncoding;
}

/** State that a mixer keeps from token to token; a step with `countsOnHost` cannot be recorded. */
export interface MixerState extends Pick<State, "bytesPerToken" | "countsOnHost" | "clear" | "dispose"> {
  /** Row b of the batch becomes what row rows[b] was, rows i32 [batch], of a state that can do so (beam search). */
  reorder?(rows: Tensor): void;
}

/** States of a block of the model: of its mixer, of its attention to an encoder, and of a feed-forward block that has one. */
export interface LayerState extends MixerState {
  readonly mixer: MixerState;
  readonly cross: MixerState | undefined;
  readonly ffn: MixerState | undefined;
}

export interface StateOptions {
  readonly batch: number;
  readonly maxLength: number;
  readonly maxChunk: number;
}

/** Mixes tokens: attention or anything else that maps [batch, seq, dim] to itself, causally but in an encoder. */
export interface Mixer extends Part {
  /** f(x), or residual + f(x). */
  forward(x: Tensor, context: ForwardContext, state: MixerState | undefined, residual?: Tensor): Tensor;
  createState(options: StateOptions): MixerState;
  /** Before `forward`, from the layer's input at all positions: what a tokenwise mixer needs of them. */
  prepare?(x: Tensor, context: ForwardContext, state: MixerState | undefined): void;
  /** Bytes that a state holds for each token of the encoder's text, of a mixer that attends to one. */
  readonly contextBytesPerToken?: number;
  /** After `prepare`, a token's output needs nothing of this layer's input at other positions. */
  readonly tokenwise?: boolean;
}

/** A feed-forward block read as a memory: f(x) = sum_i keys(x)_i value_i (+ bias). */
export interface BlockMemory {
  /** Coefficients of the values, [.., dim] -> [.., F]; in a mixture of all experts, times each one's share. */
  keys(x: Tensor, context: ForwardContext): Tensor;
  /** The values as columns: [dim, F]. */
  values(): Tensor;
  /** Put other values in their place. */
  write(values: Tensor): void;
  readonly bias?: Tensor | undefined;
  /** Experts that F is divided among, side by side; 1 in a dense block. */
  readonly experts: number;
}

/** Works on each token by itself; RWKV's channel mix looks at the token before, too. */
export interface FeedForwardBlock extends Part {
  /** The block as a memory, where it is one (its last step is a product with a matrix). */
  readonly memory?: BlockMemory;
  /** f(x), or residual + f(x). The state is the block's own, of a block that has one. */
  forward(x: Tensor, context: ForwardContext, residual?: Tensor, state?: MixerState): Tensor;
  /** An empty state, of a block that looks at the token before (RWKV's channel mix). */
  createState?(options: StateOptions): MixerState;
  /** Parameters that one token uses. */
  readonly activeParameters: number;
}

/** How a part gets its weights: drawn from a seed, or taken from a checkpoint. */
export interface Weights {
  readonly gpu: Gpu;
  readonly model: ModelConfig;
  /** Number of the layer. */
  readonly layer: number;
  /** The part's name in the checkpoint ("model.layers.0.self_attn"). */
  readonly name: string;
  /** A checkpoint's tensors below that name; absent: initialise. */
  readonly given?: Readonly<Record<string, Tensor>> | undefined;
  /** Why the checkpoint has no tensor of a full name. */
  readonly missing?: ((name: string) => Error) | undefined;
  readonly seed: number;
  /** Collects what was made, so that a model that cannot be finished leaves nothing behind. */
  readonly made: Tensor[];
  /** Factor of the initial deviation of v, o and the feed-forward weights (DeepNorm, Sub-LN). */
  readonly gain: number;
  /** The layer's encoding. */
  readonly encoding: Encoding;
  readonly components: Components;
  /** Sub-LN: the norm before the output projection, over all its features. */
  readonly innerNorm?: ((name: string, dim: number) => Norm) | undefined;
}

export type Factory<T> = (spec: ComponentSpec, weights: Weights) => T;
export type NormFactory = (spec: ComponentSpec, weights: Weights, dim: number) => Norm;

/** Parts by name; give your own to `CausalLM` to use them from a configuration. */
export interface Components {
  readonly encodings: Readonly<Record<string, Factory<Encoding>>>;
  readonly norms: Readonly<Record<string, NormFactory>>;
  readonly mixers: Readonly<Record<string, Factory<Mixer>>>;
  readonly ffns: Readonly<Record<string, Factory<FeedForwardBlock>>>;
  /** Where the checkpoint puts a feed-forward block of a type; default "mlp". */
  readonly ffnNames: Readonly<Record<string, string>>;
}
