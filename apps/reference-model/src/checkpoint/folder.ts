import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { FormatError } from "@x/kernels";
import { Safetensors } from "@x/kernels/safetensors";
import { expectObject } from "../config/index.js";
import { fileSource, type FileSource } from "./byte_source.js";
import { exists, readJson } from "./files.js";
import { withMxfp4 } from "./mxfp4.js";
import { BESIDE } from "./names.js";
import { quoted, type ModelSource, type StoredTensor, type StoredTensors } from "./stored.js";

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
        `${quoted(name)} lies in ${JSON.stringify(file)}; it must be a safetensors file of the folder`,
      );
    out.set(name, file);
  }
  return out;
}

/** Types of weights. */
const WEIGHT_TYPES: readonly string[] = ["F64", "F32", "F16", "BF16"];

function stored(file: Safetensors, name: string): StoredTensor {
  const { dtype, shape } = file.entry(name);
  const readable = WEIGHT_TYPES.includes(dtype);
  const refusal = `${quoted(name)} is ${dtype}; weights are F32, F16 or BF16`;
  return {
    file: file.file,
    name,
    type: dtype,
    shape,
    readable,
    refusal,
    floats: async () => {
      if (!readable) throw new FormatError(file.file, refusal);
      return (await file.numbers(name)) as Float32Array;
    },
    bytes: () => file.bytes(name),
  };
}

/** The tensors of a folder's safetensors files by name. */
async function openTensors(folder: string): Promise<StoredTensors> {
  const shards = await shardFiles(folder);
  const names = shards ? [...new Set(shards.values())] : ["model.safetensors"];
  const sources: FileSource[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(sources.map((s) => s.close()));
  };
  try {
    const tensors = new Map<string, StoredTensor>();
    for (const name of names) {
      const path = join(folder, name);
      const source = await fileSource(path);
      sources.push(source);
      const file = await Safetensors.open(path, source);
      for (const tensor of file.names) {
        if (shards && shards.get(tensor) !== name) continue;
        if (tensors.has(tensor)) throw new FormatError(path, `${quoted(tensor)} is also in another file`);
        tensors.set(tensor, stored(file, tensor));
      }
    }
    for (const [tensor, name] of shards ?? []) {
      if (!tensors.has(tensor))
        throw new FormatError(
          join(folder, name),
          `has no tensor ${JSON.stringify(tensor)}, which the index says it has`,
        );
    }
    return { tensors: withMxfp4(tensors), close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A Hugging Face folder as a model's source. */
export function folderSource(folder: string): ModelSource {
  const configFile = join(folder, "config.json");
  return {
    path: folder,
    configFile,
    config: async () => ({ ...expectObject(configFile, await readJson(configFile)) }),
    generation: async () => {
      const file = join(folder, "generation_config.json");
      return (await exists(file)) ? { file, json: await readJson(file) } : undefined;
    },
    open: () => openTensors(folder),
    files: async () => (await readdir(folder)).filter((name) => BESIDE.test(name)),
    file: async (name) => readFile(join(folder, name)).catch(() => undefined),
  };
}
