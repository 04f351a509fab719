import type { Placement } from "@x/norm";

/** Names an entry of a component table; what it reads besides `type` is its own matter. */
export interface ComponentSpec {
  readonly type: string;
  readonly [key: string]: unknown;
}

/** One block: how tokens mix, what each does alone, and where the norms stand. */
export interface LayerSpec {
  readonly mixer: ComponentSpec;
  /** A decoder's attention to the encoder's output, between mixer and feed-forward block. */
  readonly cross?: ComponentSpec | undefined;
  readonly ffn: ComponentSpec;
  readonly norm: ComponentSpec;
  readonly placement: Placement;
  /** Mixer and feed-forward block side by side, after one norm (Falcon, GPT-J) or each after its own (GPT-NeoX). */
  readonly parallel?: "oneNorm" | "ownNorms" | undefined;
  /** Factor of what mixer and feed-forward block add to the stream (Granite); default 1. */
  readonly branchScale?: number | undefined;
  /** Where a token is: encodings that are equal in all layers are one, with one set of parameters. */
  readonly position: ComponentSpec;
}

/** A decoder-only model, or one of the two stacks of an encoder-decoder: what is assembled, layer by layer. */
export interface ModelConfig {
  readonly family: string;
  readonly vocabSize: number;
  readonly dim: number;
  readonly maxLength: number;
  readonly tieEmbeddings: boolean;
  readonly bosTokenId: number | undefined;
  readonly eosTokenIds: readonly number[];
  /** Factor of the embeddings. */
  readonly embedScale: number;
  /** Norm of the embeddings (peri-LN). */
  readonly embedNorm: ComponentSpec | undefined;
  readonly finalNorm: ComponentSpec | undefined;
  /** Factor of the logits. */
  readonly logitScale: number;
  /** Bound of the logits, cap tanh(logits / cap) (Gemma 2); 0: none. */
  readonly logitSoftcap: number;
  readonly layers: readonly LayerSpec[];
  /** Factor of the load-balancing losses in training. */
  readonly balanceLoss: number;
}

/** An encoder and a decoder that attends to its output; both embed tokens with one table. */
export interface EncoderDecoderConfig {
  readonly family: string;
  readonly encoder: ModelConfig;
  readonly decoder: ModelConfig;
  /** Whether files decide if the output matrix is the embedding: they hold one of its own or not. */
  readonly headIfStored: boolean;
  /** The first id of every output. */
  readonly decoderStartTokenId: number;
  /** What fills short texts of a batch up. */
  readonly padTokenId: number;
}
