import { createHash } from "node:crypto";
import { ConfigError } from "@x/kernels";
import { BpeTokenizer, toTokenizerJson, type Tokenizer } from "@x/tokenizer";
import { filesBeside, loadFolderTokenizer, readConfig } from "../checkpoint/load.js";
import { modelConfig } from "../families/index.js";
import { documentStarts, encodeDocuments, type Batch, trainingBatch } from "../corpus/data.js";
import { HostRandom } from "../corpus/random.js";
import type { TrainingOptions } from "./options.js";

const END_OF_TEXT = "<|endoftext|>";

/** A tokenizer, and the files that a model's folder holds of it. */
export interface TokenizerFiles {
  readonly tokenizer: Tokenizer;
  readonly files: Readonly<Record<string, string | Uint8Array>>;
}

/** The tokenizer of a folder with its files as they are. @throws ConfigError where there is none */
export async function folderTokenizer(folder: string): Promise<TokenizerFiles> {
  const tokenizer = await loadFolderTokenizer(folder);
  if (!tokenizer)
    throw new ConfigError(
      "train",
      `${folder} has no tokenizer; it must hold tokenizer.json, or vocab.json and merges.txt`,
    );
  return { tokenizer, files: await filesBeside(folder) };
}

/** Learn a byte-level BPE from documents. */
export function learnTokenizer(documents: readonly string[], vocabSize: number): TokenizerFiles {
  const tokenizer = BpeTokenizer.train(documents, {
    vocabSize,
    specialTokens: [END_OF_TEXT],
    bosToken: END_OF_TEXT,
    eosToken: END_OF_TEXT,
  });
  const config = {
    tokenizer_class: "PreTrainedTokenizerFast",
    bos_token: END_OF_TEXT,
    eos_token: END_OF_TEXT,
  };
  const files = {
    "tokenizer.json": `${JSON.stringify(toTokenizerJson(tokenizer))}\n`,
    "tokenizer_config.json": `${JSON.stringify(config, null, 2)}\n`,
  };
  return { tokenizer, files };
}

/** The configuration of a model that begins with random weights: the ids are those of its tokenizer. */
export function newModel(model: Record<string, unknown>, tokenizer: Tokenizer): Record<string, unknown> {
  const { bosTokenId, eosTokenId } = tokenizer;
  return {
    ...model,
    vocab_size: tokenizer.vocabSize,
    ...(bosTokenId === undefined ? {} : { bos_token_id: bosTokenId }),
    ...(eosTokenId === undefined ? {} : { eos_token_id: eosTokenId }),
  };
}

/** Tokens of the longest text that a model of this configuration is made for; it need not say its vocabulary yet. */
export const contextOf = (model: Record<string, unknown>): number =>
  modelConfig({ vocab_size: 1, ...model }).maxLength;

/** The configuration of a model that begins with a folder's weights: as it is there. */
export async function modelOf(folder: string): Promise<Record<string, unknown>> {
  return (await readConfig(folder)).json;
}

/** Documents for training and for validation; a function of the seed. */
function splitDocuments(
  documents: readonly string[],
  share: number,
  seed: number,
): { training: string[]; validation: string[] } {
  const random = new HostRandom(0x5911, seed);
  const training: string[] = [];
  const validation: string[] = [];
  for (const text of documents) (random.next() < share ? validation : training).push(text);
  return training.length === 0 || (validation.length === 0 && share > 0)
    ? { training: [...documents], validation: [...documents].slice(-1) }
    : { training, validation };
}

/** The ids that a run trains on and those that judge it. */
export class TrainingText {
  readonly training: Int32Array;
  readonly validation: Int32Array;
  /** SHA-256 of the documents. */
  readonly hash: string;
  /** The id between documents, where the tokenizer or the model has one. */
  readonly end: number | undefined;
  readonly #options: TrainingOptions;
  readonly #starts: { readonly at: Int32Array; readonly share: number };

  /** @throws ConfigError for a text that is too short, or that has ids which the model does not know */
  constructor(
    path: string,
    documents: readonly string[],
    tokenizer: Tokenizer,
    model: Record<string, unknown>,
    options: TrainingOptions,
  ) {
    const { vocabSize, eosTokenIds } = modelConfig(model);
    const { training, validation } = splitDocuments(documents, options.validation, options.seed);
    this.end = tokenizer.eosTokenId ?? eosTokenIds[0];
    this.training = encodeDocuments(training, tokenizer, this.end);
    this.validation = encodeDocuments(validation, tokenizer, this.end);
    for (const stream of [this.training, this.validation]) {
      const unknown = stream.find((id) => id >= vocabSize);
      if (unknown !== undefined)
        throw new ConfigError(
          "train",
          `the tokenizer gives the id ${unknown} (${JSON.stringify(tokenizer.decode([unknown]))}); the model has ${vocabSize} ids`,
        );
    }
    if (this.training.length <= options.seqLen)
      throw new ConfigError(
        path,
        `holds ${this.training.length} training tokens; --seq-len is ${options.seqLen}, and a sequence needs one more`,
      );
    this.hash = createHash("sha256").update(documents.join("\0")).digest("hex");
    this.#options = options;
    this.#starts = {
      at: documentStarts(this.training, this.end, options.seqLen),
      share: options.documentStarts,
    };
  }

  /** What a step trains on; a function of the seed and the step. */
  batch(step: number): Batch {
    const { batch, seqLen, seed } = this.#options;
    return trainingBatch(this.training, batch, seqLen, seed, step, this.#starts);
  }
}
