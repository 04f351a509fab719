import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError, type Gpu } from "@x/kernels";
import type { Components } from "../../components/index.js";
import { readDocuments } from "../../corpus/documents.js";
import { exists, makeFolder } from "../../checkpoint/files.js";
import { ggufArchitecture, writeGguf } from "../../checkpoint/gguf/to_gguf.js";
import { assemble } from "../../checkpoint/assemble.js";
import { QUANTS, type Quants } from "../../checkpoint/quantised.js";
import { saveQuantised } from "../../checkpoint/save_quantised.js";
import { modelSource } from "../../checkpoint/source.js";
import type { ModelSource } from "../../checkpoint/stored.js";
import { perplexity } from "../../training/evaluate.js";
import { expectTokenizer, withDevice } from "../shared.js";

export interface QuantiseOptions {
  readonly model: string;
  /** The model with its adapters; default: that of the path. */
  readonly source?: ModelSource;
  readonly out: string;
  readonly quantize: Quants;
  /** A text, or a folder of texts, on which both models are measured. */
  readonly text?: string;
  readonly components?: Components | undefined;
}

/** Bytes of the files that hold a model's weights. */
async function weightBytes(source: ModelSource): Promise<number> {
  const opened = await source.open();
  await opened.close();
  const files = new Set([...opened.tensors.values()].map(({ file }) => file));
  const sizes = await Promise.all([...files].map(async (file) => (await stat(file)).size));
  return sizes.reduce((a, b) => a + b, 0);
}

/** Writes the model, and returns its path. */
async function write({ out, quantize }: QuantiseOptions, source: ModelSource): Promise<string> {
  const warn = (text: string): boolean => process.stderr.write(`warning: ${text}\n`);
  if (ggufArchitecture((await source.config())["model_type"])) {
    const there = (await exists(out)) ? await readdir(out) : [];
    const other = there.find((name) => name === "config.json" || /\.gguf$/i.test(name));
    if (other !== undefined)
      throw new ConfigError("convert: --out", `${out} holds ${other}, another model; name a new folder`);
    const file = join(out, "model.gguf");
    await makeFolder(out);
    try {
      for (const difference of await writeGguf(file, source, quantize)) warn(difference);
      return file;
    } catch (error) {
      if (!ConfigError.isInstance(error)) throw error;
      warn(`written as a folder, since GGUF cannot hold this model: ${error.message}`);
    }
  }
  await saveQuantised(out, source, quantize);
  return out;
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(2)} MB`;

/**
 * Writes a quantised model, and returns lines that say where it is, its size before and after, and what it costs in
 * perplexity.
 *
 * @throws ConfigError for a folder that holds another model, or a model that has no tokenizer for the text; FormatError
 */
export async function convertQuantised(options: QuantiseOptions): Promise<readonly string[]> {
  const { model, text, components, quantize } = options;
  const source = options.source ?? (await modelSource(model));
  const documents = text === undefined ? undefined : await readDocuments(text);
  const tokenizer = documents && (await expectTokenizer("convert: --text", model));
  const measured = async (gpu: Gpu, from: ModelSource): Promise<{ perplexity: number; tokens: number }> => {
    const loaded = await assemble(gpu, from, { components, stored: true });
    try {
      return await perplexity(gpu, loaded.model, tokenizer!, documents!);
    } finally {
      loaded.model.dispose();
    }
  };
  const bytes = await weightBytes(source);
  const run = async (gpu: Gpu | undefined): Promise<string[]> => {
    const before = gpu && (await measured(gpu, source));
    const path = await write(options, source);
    const written = await modelSource(path);
    const after = await weightBytes(written);
    const lines = [
      `${path}: ${QUANTS[quantize]}, ${megabytes(bytes)} before, ${megabytes(after)} after (${((100 * after) / bytes).toFixed(1)} %)`,
    ];
    if (!gpu || !before) return [...lines, "perplexity: not measured (--text FILE measures it)"];
    const now = await measured(gpu, written);
    const change = 100 * (now.perplexity / before.perplexity - 1);
    return [
      ...lines,
      `perplexity: ${before.perplexity.toFixed(4)} before, ${now.perplexity.toFixed(4)} after (${change < 0 ? "" : "+"}${change.toFixed(2)} %) over ${now.tokens} tokens of ${text!}`,
    ];
  };
  return documents ? withDevice(run) : run(undefined);
}
