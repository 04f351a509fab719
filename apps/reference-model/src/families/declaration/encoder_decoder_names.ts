import {
  TensorNames,
  type CheckpointNames,
  type Reading,
  type TensorTable,
  type Writing,
} from "./tensor_names.js";

const EMBEDDING = "model.embed_tokens.weight";
const ENCODER = "encoder.";

/** Where a family's checkpoints have the tensors of an encoder and a decoder. */
export interface EncoderDecoderTable {
  /** The table of embeddings that both stacks use. */
  readonly embedding: string;
  /** Names of that table in files that hold it once more, or under one of these alone. */
  readonly embeddingToo: readonly string[];
  /** `prefix` is what stands before the names of the stack in checkpoints. */
  readonly encoder: TensorTable & { readonly prefix: string };
  readonly decoder: TensorTable & { readonly prefix: string };
}

/** The names of two stacks with one table of embeddings. */
export class EncoderDecoderNames implements CheckpointNames {
  readonly #table: EncoderDecoderTable;
  readonly #encoder: TensorNames;
  readonly #decoder: TensorNames;

  constructor(table: EncoderDecoderTable) {
    this.#table = table;
    this.#encoder = new TensorNames({ ...table.encoder, model: ENCODER });
    this.#decoder = new TensorNames(table.decoder);
  }

  reader(names: readonly string[]): (name: string) => Reading | undefined {
    const { embedding, embeddingToo, encoder, decoder } = this.#table;
    const tables = [embedding, ...embeddingToo].map((name) => `${name}.weight`);
    const read = tables.find((name) => names.includes(name));
    const below = (prefix: string): string[] => names.filter((name) => name.startsWith(prefix));
    const ofEncoder = this.#encoder.reader(below(encoder.prefix));
    const ofDecoder = this.#decoder.reader(below(decoder.prefix));
    return (name) => {
      if (tables.includes(name)) return name === read ? { targets: [{ name: EMBEDDING }] } : undefined;
      return name.startsWith(encoder.prefix) ? ofEncoder(name) : ofDecoder(name);
    };
  }

  writings(names: readonly string[]): Writing[] {
    const ofEncoder = names.filter((name) => name.startsWith(ENCODER));
    const ofDecoder = names.filter((name) => name !== EMBEDDING && !name.startsWith(ENCODER));
    return [
      { name: `${this.#table.embedding}.weight`, targets: [EMBEDDING] },
      ...this.#encoder.writings(ofEncoder),
      ...this.#decoder.writings(ofDecoder),
    ];
  }

  nameOf(name: string): string {
    if (name === EMBEDDING) return `${this.#table.embedding}.weight`;
    return (name.startsWith(ENCODER) ? this.#encoder : this.#decoder).nameOf(name);
  }
}
