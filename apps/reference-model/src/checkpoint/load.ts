import { open, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { checkConfig, ConfigError, FormatError, type Gpu, type Tensor } from "@x/kernels";
import { Safetensors, type ByteSource } from "@x/kernels/safetensors";
import { loadTokenizer, type Tokenizer } from "@x/tokenizer";
import type { Components } from "../components/index.js";
import { expectObject, Fields, modelConfig, type ModelConfig } from "../config/index.js";
import { CausalLM } from "../model/model.js";
import { exists, finishPublication, readJson } from "./files.js";
import { BESIDE, COMPUTED, expertTensor, modelNames } from "./names.js";

/** A file that is read in pieces. */
async function fileSource(path: string): Promise<ByteSource & { close: () => Promise<void> }> {
  const handle = await open(path, "r").catch((cause: unknown) => {
    throw new FormatError(path, "cannot be opened", { cause });
  });
  const { size } = await handle.stat();
  return {
    size,
    read: async (begin, end) => {
      const bytes = new Uint8Array(Math.max(0, end - begin));
      let filled = 0;
      // One call of the system reads at most 2 GiB, and may read less than it was asked for.
      while (filled < bytes.length) {
        const length = Math.min(bytes.length - filled, 2 ** 30);
        const { bytesRead } = await handle.read(bytes, filled, length, begin + filled);
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
      return bytes.subarray(0, filled);
    },
    close: () => handle.close(),
  };
}

/** Which file holds each tensor: the index of a sharded checkpoint. */
async function shardFiles(folder: string): Promise<Map<string, string> | undefined> {
  const path = join(folder, "model.safetensors.index.json");
  if (!(await exists(path))) return undefined;
  const index = await readJson(path);
  const map =
    typeof index === "object" && index !== null
      ? (index as Record<string, unknown>)["weight_map"]
      : undefined;
  if (typeof map !== "object" || map === null || Array.isArray(map))
    throw new FormatError(path, "weight_map must map tensor names to files");
  const out = new Map<string, string>();
  for (const [name, file] of Object.entries(map)) {
    if (typeof file !== "string" || !/^[\w.-]+\.safetensors$/.test(file))
      throw new FormatError(
        path,
        `tensor ${JSON.stringify(name)} lies in ${JSON.stringify(file)}; it must be a safetensors file of the folder`,
      );
    out.set(name, file);
  }
  return out;
}

interface Found {
  readonly file: Safetensors;
  readonly name: string;
}

/** The tensors of a folder's safetensors files by name, with the files to be closed. */
async function openFolder(
  folder: string,
): Promise<{ tensors: Map<string, Found>; close: () => Promise<void> }> {
  const shards = await shardFiles(folder);
  const names = shards ? [...new Set(shards.values())] : ["model.safetensors"];
  const sources: (ByteSource & { close: () => Promise<void> })[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(sources.map((s) => s.close()));
  };
  try {
    const tensors = new Map<string, Found>();
    for (const name of names) {
      const path = join(folder, name);
      const source = await fileSource(path);
      sources.push(source);
      const file = await Safetensors.open(path, source);
      for (const tensor of file.names) {
        if (shards && shards.get(tensor) !== name) continue;
        if (tensors.has(tensor))
          throw new FormatError(path, `tensor ${JSON.stringify(tensor)} is also in another file`);
        tensors.set(tensor, { file, name: tensor });
      }
    }
    for (const [tensor, name] of shards ?? []) {
      if (!tensors.has(tensor))
        throw new FormatError(
          join(folder, name),
          `has no tensor ${JSON.stringify(tensor)}, which the index says it has`,
        );
    }
    return { tensors, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A folder's weights, and how it refuses what it cannot give. */
interface FolderWeights {
  /** On the device, under the model's names, with the experts of a layer stacked. */
  readonly parameters: Record<string, Tensor>;
  /** Why a tensor is not among them. */
  readonly missing: (name: string) => Error;
}

/** Types of weights. A tensor of another type is left where it is, unless the model needs it. */
const WEIGHT_TYPES: readonly string[] = ["F64", "F32", "F16", "BF16"];

/** The tensors of a folder under the model's names; tied embeddings are one, whichever of the two is there. */
function underModelNames(
  folder: string,
  tensors: ReadonlyMap<string, Found>,
  tied: boolean,
): Map<string, Found> {
  const rename = modelNames([...tensors.keys()]);
  const out = new Map<string, Found>();
  for (const [given, found] of tensors) {
    if (COMPUTED.test(given)) continue;
    const name = rename(given);
    if (out.has(name))
      throw new FormatError(
        folder,
        `tensors ${JSON.stringify(out.get(name)!.name)} and ${JSON.stringify(given)} are both the model's ${name}`,
      );
    out.set(name, found);
  }
  const head = out.get("lm_head.weight");
  if (tied && head) {
    out.delete("lm_head.weight");
    if (!out.has("model.embed_tokens.weight")) out.set("model.embed_tokens.weight", head);
  }
  return out;
}

async function readParameters(gpu: Gpu, folder: string, config: ModelConfig): Promise<FolderWeights> {
  const { tensors, close } = await openFolder(folder);
  const out: Record<string, Tensor> = {};
  try {
    const stacks = new Map<string, Map<number, Found>>();
    const unread = new Map<string, Found>();
    for (const [name, found] of underModelNames(folder, tensors, config.tieEmbeddings)) {
      const expert = expertTensor(name);
      if (expert) {
        const stack = stacks.get(expert.stack) ?? new Map<number, Found>();
        stacks.set(expert.stack, stack.set(expert.index, found));
      } else if (WEIGHT_TYPES.includes(found.file.entry(found.name).dtype))
        out[name] = await upload(gpu, found);
      else unread.set(name, found);
    }
    for (const [key, stack] of stacks) {
      const first = stack.get(0);
      if (!first) throw new FormatError(folder, `${key}: expert 0 is missing`);
      const { shape } = first.file.entry(first.name);
      const size = shape.reduce((a, b) => a * b, 1);
      const data = new Float32Array(stack.size * size);
      for (let i = 0; i < stack.size; i++) {
        const found = stack.get(i);
        if (!found) throw new FormatError(folder, `${key}: expert ${i} of ${stack.size} is missing`);
        const entry = found.file.entry(found.name);
        if (entry.shape.length !== shape.length || entry.shape.some((n, axis) => n !== shape[axis])) {
          throw new FormatError(
            found.file.file,
            `tensor ${JSON.stringify(found.name)} has shape [${entry.shape.join(", ")}]; expert 0 has [${shape.join(", ")}]`,
          );
        }
        data.set(await floats(found), i * size);
      }
      out[key] = gpu.keep(gpu.tensor(data, [stack.size, ...shape]));
    }
    const missing = (name: string): Error => {
      const found = unread.get(name);
      if (found) return wrongType(found);
      const names = [...tensors.keys()];
      const some = names.slice(0, 5).join(", ");
      const held = names.length > 5 ? `${some} and ${names.length - 5} more` : some || "none";
      return new ConfigError(folder, `tensor ${name} is missing (there are: ${held})`);
    };
    return { parameters: out, missing };
  } catch (error) {
    for (const tensor of Object.values(out)) tensor.dispose();
    throw error;
  } finally {
    await close();
  }
}

const wrongType = ({ file, name }: Found): FormatError =>
  new FormatError(
    file.file,
    `tensor ${JSON.stringify(name)} is ${file.entry(name).dtype}; weights are F32, F16 or BF16`,
  );

async function floats(found: Found): Promise<Float32Array> {
  const { file, name } = found;
  if (!WEIGHT_TYPES.includes(file.entry(name).dtype)) throw wrongType(found);
  return (await file.numbers(name)) as Float32Array;
}

async function upload(gpu: Gpu, found: Found): Promise<Tensor> {
  return gpu.keep(gpu.tensor(await floats(found), found.file.entry(found.name).shape));
}

/** A loaded model folder. */
export interface Checkpoint {
  readonly model: CausalLM;
  readonly config: ModelConfig;
  /** The parsed config.json. */
  readonly json: Record<string, unknown>;
}

export interface LoadOptions {
  /** Changes config.json before it is read: another context extension. */
  readonly change?: ((json: Record<string, unknown>) => Record<string, unknown>) | undefined;
  /** The parts that a configuration can name; default: those of this repository. */
  readonly components?: Components | undefined;
}

/** A folder's configuration; a text also ends at the ids that generation_config.json names. */
export async function readConfig(
  folder: string,
  change?: LoadOptions["change"],
): Promise<{ config: ModelConfig; json: Record<string, unknown> }> {
  await finishPublication(folder);
  const path = join(folder, "config.json");
  const parsed = expectObject(path, await readJson(path)) as Record<string, unknown>;
  const json = change ? change(parsed) : parsed;
  const config = modelConfig(json, path);
  const generation = join(folder, "generation_config.json");
  if (!(await exists(generation))) return { config, json };
  const more = new Fields(generation, expectObject(generation, await readJson(generation))).ids(
    "eos_token_id",
  );
  return { config: { ...config, eosTokenIds: [...new Set([...config.eosTokenIds, ...more])] }, json };
}

/**
 * Load a Hugging Face style folder. Either the whole model is there or nothing is: tensors that are missing, left
 * over or of another shape are named.
 *
 * @throws FormatError, ConfigError
 */
export async function loadCheckpoint(
  gpu: Gpu,
  folder: string,
  options: LoadOptions = {},
): Promise<Checkpoint> {
  checkConfig("loadCheckpoint", options, ["change", "components"]);
  const { config, json } = await readConfig(folder, options.change);
  const { parameters: given, missing } = await readParameters(gpu, folder, config);
  try {
    const model = CausalLM.fromParameters(gpu, config, given, options.components, missing);
    const used = new Set(Object.keys(model.state()));
    const extra = Object.keys(given).filter((name) => !used.has(name));
    if (extra.length > 0)
      throw new ConfigError(
        folder,
        `holds tensors that the configuration has no place for: ${extra.slice(0, 5).join(", ")}${extra.length > 5 ? ` and ${extra.length - 5} more` : ""}`,
      );
    return { model, config, json };
  } catch (error) {
    for (const tensor of Object.values(given)) tensor.dispose();
    throw error;
  }
}

/** The tokenizer of a folder, or undefined where it has none. */
export async function loadFolderTokenizer(folder: string): Promise<Tokenizer | undefined> {
  await finishPublication(folder);
  if (!(await exists(join(folder, "tokenizer.json"))) && !(await exists(join(folder, "vocab.json"))))
    return undefined;
  // Texts of training and prompts have lengths of their own; a file's are those of a batch.
  return loadTokenizer(async (name) => readFile(join(folder, name), "utf8").catch(() => undefined), {
    truncation: false,
    padding: false,
  });
}

/** What a model's folder holds beside its weights and its configuration, by name: the tokenizer's files and the like. */
export async function filesBeside(folder: string): Promise<Record<string, Uint8Array>> {
  await finishPublication(folder);
  const names = (await readdir(folder)).filter((name) => BESIDE.test(name));
  const files = names.map(async (name) => [name, await readFile(join(folder, name))] as const);
  return Object.fromEntries(await Promise.all(files));
}
