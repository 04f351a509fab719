import type { Placement } from "@x/norm";

/** Names an entry of a component table; what it reads besides `type` is its own matter. */
export interface ComponentSpec {
  readonly type: string;
  readonly [key: string]: unknown;
}

/** One block: how tokens mix, what each does alone, and where the norms stand. */
export interface LayerSpec {
  readonly mixer: ComponentSpec;
  readonly ffn: ComponentSpec;
  readonly norm: ComponentSpec;
  readonly placement: Placement;
  /** Where a token is: encodings that are equal in all layers are one, with one set of parameters. */
  readonly position: ComponentSpec;
}

/** A decoder-only model: what is assembled, layer by layer. */
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
  readonly layers: readonly LayerSpec[];
  /** Factor of the load-balancing losses in training. */
  readonly balanceLoss: number;
}
