import type { ByteSource } from "@x/kernels/safetensors";

/** A file that is read in pieces, and is to be closed. */
export interface FileSource extends ByteSource {
  close(): Promise<void>;
}

/** A tensor of a file that has not been read yet. */
export interface StoredTensor {
  /** The file, and the tensor's name in it, for errors. */
  readonly file: string;
  readonly name: string;
  /** The type of its numbers as the format names it: "F32", "BF16", "Q4_K". */
  readonly type: string;
  readonly shape: readonly number[];
  /** Whether numbers of this type are weights that are read; what is not is left where it is unless it is needed. */
  readonly readable: boolean;
  /** What is said where it is needed though it is not readable. */
  readonly refusal: string;
  /** Reads its numbers. @throws FormatError for a type that is not read */
  floats(): Promise<Float32Array>;
  /** Reads its bytes as stored; absent where its numbers differ from the stored ones. */
  readonly bytes?: (() => Promise<Uint8Array>) | undefined;
  /** Matrices [..., in, out] that a file stores as [..., out, in]: that shape, and its bytes. */
  readonly outputsFirst?: { readonly shape: readonly number[]; readonly bytes: () => Promise<Uint8Array> };
}

/** A model's tensors by their names in a Hugging Face folder. */
export interface StoredTensors {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  close(): Promise<void>;
}

/** What a model is read from: a Hugging Face folder, or a file whose contents are told as those of such a folder. */
export interface ReadableModel {
  /** The folder or file, for errors. */
  readonly path: string;
  /** What names config.json in errors. */
  readonly configFile: string;
  /** Content of config.json. @throws FormatError, ConfigError */
  config(): Promise<Record<string, unknown>>;
  /** Content of generation_config.json, with the name for errors; undefined where there is none. */
  generation(): Promise<{ readonly file: string; readonly json: unknown } | undefined>;
  /** Opens the weights; they are to be closed. @throws FormatError */
  open(): Promise<StoredTensors>;
  /** Content of a file beside weights and configuration, the tokenizer's and the like; undefined where there is none. */
  file(name: string): Promise<string | Uint8Array | undefined>;
}

/** A source that also knows what it holds, as a disk does and an address does not. */
export interface ModelSource extends ReadableModel {
  /** Names of what lies beside weights and configuration. */
  files(): Promise<string[]>;
}

/** A tensor's name in an error. */
export const quoted = (name: string): string => `tensor ${JSON.stringify(name)}`;
