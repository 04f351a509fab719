import type { Gpu } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import type { ModelConfig } from "../config/index.js";
import {
  assemble,
  assembleAny,
  configFrom,
  tokenizerFrom,
  type Checkpoint,
  type EncoderDecoderCheckpoint,
  type LoadOptions,
} from "./assemble.js";
import { filesSource, modelSource } from "./source.js";

export type { Checkpoint, EncoderDecoderCheckpoint, LoadOptions } from "./assemble.js";

/** A model's configuration; a text also ends at the ids that generation_config.json names. */
export async function readConfig(
  path: string,
  change?: LoadOptions["change"],
): Promise<{ config: ModelConfig; json: Record<string, unknown> }> {
  return configFrom(await modelSource(path), change);
}

/** Load a decoder-only model, or an encoder-decoder; see `loadCheckpoint`. @throws FormatError, ConfigError */
export async function loadModel(
  gpu: Gpu,
  path: string,
  options: LoadOptions = {},
): Promise<Checkpoint | EncoderDecoderCheckpoint> {
  return assembleAny(gpu, await modelSource(path), options);
}

/**
 * Load a Hugging Face style folder, a folder with one GGUF file, or that file. Either the whole model is there or
 * nothing is: tensors that are missing, left over or of another shape are named.
 *
 * @throws FormatError, ConfigError
 */
export async function loadCheckpoint(gpu: Gpu, path: string, options: LoadOptions = {}): Promise<Checkpoint> {
  return assemble(gpu, await modelSource(path), options);
}

/** The tokenizer of a folder or a GGUF file, or undefined where it has none. */
export async function loadFolderTokenizer(path: string): Promise<Tokenizer | undefined> {
  return tokenizerFrom(await filesSource(path));
}

/** What a model has beside its weights and its configuration, by name: the tokenizer's files and the like. */
export async function filesBeside(path: string): Promise<Record<string, string | Uint8Array>> {
  const source = await filesSource(path);
  const out: Record<string, string | Uint8Array> = {};
  for (const name of await source.files()) out[name] = (await source.file(name)) ?? "";
  return out;
}
