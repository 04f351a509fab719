import { mkdir, open, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { checkConfig, ConfigError, FormatError, type Gpu, type Tensor } from "@x/kernels";
import { Safetensors, writeSafetensors, type ByteSource, type TensorData } from "@x/kernels/safetensors";
import { loadTokenizer, type Tokenizer } from "@x/tokenizer";
import { expectObject, Fields, modelConfig, type ModelConfig } from "./config/index.js";
import { CausalLM } from "./model.js";

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Parse a JSON file of a folder. @throws FormatError */
export async function readJson(path: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    throw new FormatError(path, "cannot be read; it must be a file of the model's folder", { cause });
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new FormatError(path, `is no JSON (${cause instanceof Error ? cause.message : String(cause)})`, {
      cause,
    });
  }
}

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

/** Names that checkpoints carry and the model computes itself. */
const COMPUTED = /(^|\.)rotary_emb\.inv_freq$/;
const EXPERT = /^(.*\.experts)\.(\d+)\.(w1|w2|w3|gate_proj|up_proj|down_proj)\.weight$/;
/** Mixtral's names of an expert's matrices. */
const MIXTRAL: Readonly<Record<string, string>> = { w1: "gate_proj", w3: "up_proj", w2: "down_proj" };

/** Parameters on the device under the model's names, with the experts of a layer stacked. */
async function readParameters(
  gpu: Gpu,
  folder: string,
  config: ModelConfig,
): Promise<Record<string, Tensor>> {
  const { tensors, close } = await openFolder(folder);
  const out: Record<string, Tensor> = {};
  try {
    const stacks = new Map<string, Map<number, Found>>();
    for (const [name, found] of tensors) {
      if (COMPUTED.test(name) || (config.tieEmbeddings && name === "lm_head.weight")) continue;
      const expert = EXPERT.exec(name);
      if (expert) {
        const key = `${expert[1]!}.${MIXTRAL[expert[3]!] ?? expert[3]!}`;
        const stack = stacks.get(key) ?? new Map<number, Found>();
        stacks.set(key, stack.set(Number(expert[2]), found));
        continue;
      }
      out[name] = await upload(gpu, found);
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
    return out;
  } catch (error) {
    for (const tensor of Object.values(out)) tensor.dispose();
    throw error;
  } finally {
    await close();
  }
}

async function floats({ file, name }: Found): Promise<Float32Array> {
  const numbers = await file.numbers(name);
  if (!(numbers instanceof Float32Array))
    throw new FormatError(
      file.file,
      `tensor ${JSON.stringify(name)} is ${file.entry(name).dtype}; weights are F32, F16 or BF16`,
    );
  return numbers;
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

/** A folder's configuration; a text also ends at the ids that generation_config.json names. */
export async function readConfig(
  folder: string,
  change?: (json: Record<string, unknown>) => Record<string, unknown>,
): Promise<{ config: ModelConfig; json: Record<string, unknown> }> {
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
  change?: (json: Record<string, unknown>) => Record<string, unknown>,
): Promise<Checkpoint> {
  const { config, json } = await readConfig(folder, change);
  const given = await readParameters(gpu, folder, config);
  try {
    const model = CausalLM.fromParameters(gpu, config, given);
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
  if (!(await exists(join(folder, "tokenizer.json"))) && !(await exists(join(folder, "vocab.json"))))
    return undefined;
  return loadTokenizer(async (name) => readFile(join(folder, name), "utf8").catch(() => undefined));
}

const BESIDE = /^(tokenizer.*|vocab|special_tokens_map|added_tokens|generation_config)\.json$|^merges\.txt$/;

/** What a model's folder holds beside its weights and its configuration, by name: the tokenizer's files and the like. */
export async function filesBeside(folder: string): Promise<Record<string, string>> {
  const names = (await readdir(folder)).filter((name) => BESIDE.test(name));
  const texts = names.map(async (name) => [name, await readFile(join(folder, name), "utf8")] as const);
  return Object.fromEntries(await Promise.all(texts));
}

/** A model's parameters on the host under checkpoint names, experts one by one. */
async function hostParameters(model: CausalLM): Promise<Record<string, TensorData>> {
  const out: Record<string, TensorData> = {};
  const original = Object.fromEntries(Object.entries(MIXTRAL).map(([w, name]) => [name, w]));
  for (const [name, tensor] of Object.entries(model.state())) {
    const data = (await tensor.read()) as Float32Array;
    const stacked = /^(.*\.experts)\.(gate_proj|up_proj|down_proj)$/.exec(name);
    if (!stacked) {
      out[name] = { shape: tensor.shape, data };
      continue;
    }
    const [experts, ...shape] = tensor.shape as [number, number, number];
    const size = data.length / experts;
    const mixtral = stacked[1]!.endsWith("block_sparse_moe.experts");
    for (let i = 0; i < experts; i++)
      out[`${stacked[1]!}.${i}.${mixtral ? original[stacked[2]!]! : stacked[2]!}.weight`] = {
        shape,
        data: data.slice(i * size, (i + 1) * size),
      };
  }
  return out;
}

/** Write a file whole or not at all. */
export async function writeAtomically(path: string, data: string | Uint8Array): Promise<void> {
  const temporary = `${path}.tmp`;
  const handle = await open(temporary, "w");
  try {
    await handle.writeFile(data);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(temporary, path);
}

export const CHECKPOINT_DTYPES = {
  f32: { dtype: "F32", name: "float32", bytes: 4 },
  f16: { dtype: "F16", name: "float16", bytes: 2 },
  bf16: { dtype: "BF16", name: "bfloat16", bytes: 2 },
} as const;
export type CheckpointDType = keyof typeof CHECKPOINT_DTYPES;

export interface SaveOptions {
  /** What weights are rounded to; default f32. */
  readonly dtype?: CheckpointDType;
  /** Bytes of weights in one file; more are written as shards with an index. Default: no limit. */
  readonly maxShardBytes?: number;
  /** Tokenizer files and the like, by name. */
  readonly files?: Readonly<Record<string, string>>;
}

/** Names of the tensors of each file, none above the limit unless a single tensor is. */
function shards(tensors: Readonly<Record<string, TensorData>>, bytes: number, limit: number): string[][] {
  const out: string[][] = [[]];
  let used = 0;
  for (const [name, { data }] of Object.entries(tensors)) {
    const size = data.length * bytes;
    if (used > 0 && used + size > limit) {
      out.push([]);
      used = 0;
    }
    out.at(-1)!.push(name);
    used += size;
  }
  return out;
}

/** Write a model folder: config.json, model.safetensors or shards with their index, and other files. */
export async function saveCheckpoint(
  folder: string,
  model: CausalLM,
  json: Record<string, unknown>,
  options: SaveOptions = {},
): Promise<void> {
  checkConfig("saveCheckpoint", options, ["dtype", "maxShardBytes", "files"]);
  const { dtype = "f32", maxShardBytes = Infinity, files = {} } = options;
  await mkdir(folder, { recursive: true });
  const { dtype: stored, name: torchDtype, bytes } = CHECKPOINT_DTYPES[dtype];
  const tensors = await hostParameters(model);
  const parts = shards(tensors, bytes, maxShardBytes);
  const index = join(folder, "model.safetensors.index.json");
  const single = join(folder, "model.safetensors");
  const fileOf = (i: number): string =>
    parts.length === 1
      ? "model.safetensors"
      : `model-${String(i + 1).padStart(5, "0")}-of-${String(parts.length).padStart(5, "0")}.safetensors`;
  const weightMap: Record<string, string> = {};
  for (const [i, names] of parts.entries()) {
    const part = Object.fromEntries(names.map((name) => [name, { ...tensors[name]!, dtype: stored }]));
    for (const name of names) weightMap[name] = fileOf(i);
    await writeAtomically(join(folder, fileOf(i)), writeSafetensors(part, { format: "pt" }));
  }
  if (parts.length > 1) {
    const total = Object.values(tensors).reduce((n, { data }) => n + data.length * bytes, 0);
    const text = JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }, null, 2);
    await writeAtomically(index, `${text}\n`);
  }
  // What another layout left would win over, or lie beside, what was just written.
  await rm(parts.length > 1 ? single : index, { force: true });
  const own = "dtype" in json ? { ...json, dtype: torchDtype } : { ...json, torch_dtype: torchDtype };
  await writeAtomically(join(folder, "config.json"), `${JSON.stringify(own, null, 2)}\n`);
  for (const [name, text] of Object.entries(files)) await writeAtomically(join(folder, name), text);
}
