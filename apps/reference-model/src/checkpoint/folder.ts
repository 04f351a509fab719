import { FormatError } from "@x/kernels";
import { Safetensors } from "@x/kernels/safetensors";
import { expectObject } from "../config/index.js";
import { withBlocks } from "./blocks.js";
import { parseJson } from "./json.js";
import { withMxfp4 } from "./mxfp4.js";
import {
  quoted,
  type FileSource,
  type ReadableModel,
  type StoredTensor,
  type StoredTensors,
} from "./stored.js";

/** The files of a model's folder, wherever they lie. */
export interface Folder {
  /** The folder, for errors. */
  readonly path: string;
  /** A file's name in errors. */
  pathOf(name: string): string;
  /** Content of a file, or undefined where there is none. @throws FormatError where it cannot be read */
  read(name: string): Promise<Uint8Array | undefined>;
  /** Opens a file to be read in pieces. @throws FormatError where there is none */
  open(name: string): Promise<FileSource>;
}

/** A JSON file of the folder, or undefined where there is none. @throws FormatError */
async function jsonOf(folder: Folder, name: string): Promise<unknown> {
  const bytes = await folder.read(name);
  return bytes === undefined ? undefined : parseJson(folder.pathOf(name), new TextDecoder().decode(bytes));
}

/** Which file holds each tensor: the index of a sharded checkpoint. */
async function shardFiles(folder: Folder): Promise<Map<string, string> | undefined> {
  const name = "model.safetensors.index.json";
  const path = folder.pathOf(name);
  const index = await jsonOf(folder, name);
  if (index === undefined) return undefined;
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
async function openTensors(folder: Folder): Promise<StoredTensors> {
  const shards = await shardFiles(folder);
  const names = shards ? [...new Set(shards.values())] : ["model.safetensors"];
  const sources: FileSource[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(sources.map((s) => s.close()));
  };
  try {
    const tensors = new Map<string, StoredTensor>();
    for (const name of names) {
      const path = folder.pathOf(name);
      const source = await folder.open(name);
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
          folder.pathOf(name),
          `has no tensor ${JSON.stringify(tensor)}, which the index says it has`,
        );
    }
    return { tensors: withBlocks(withMxfp4(tensors)), close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A Hugging Face folder as a model's source. */
export function folderSource(folder: Folder): ReadableModel {
  const configFile = folder.pathOf("config.json");
  return {
    path: folder.path,
    configFile,
    config: async () => {
      const json = await jsonOf(folder, "config.json");
      if (json === undefined)
        throw new FormatError(configFile, "cannot be read (there is no such file or folder)");
      return { ...expectObject(configFile, json) };
    },
    generation: async () => {
      const name = "generation_config.json";
      const json = await jsonOf(folder, name);
      return json === undefined ? undefined : { file: folder.pathOf(name), json };
    },
    open: () => openTensors(folder),
    file: (name) => folder.read(name),
  };
}
