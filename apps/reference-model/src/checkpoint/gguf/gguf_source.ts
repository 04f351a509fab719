import { ConfigError, FormatError } from "@x/kernels";
import { Fields } from "../../config/index.js";
import {
  quoted,
  type FileSource,
  type ModelSource,
  type StoredTensor,
  type StoredTensors,
} from "../stored.js";
import {
  ARCHITECTURES,
  ROPE_TENSORS,
  type Architecture,
  type GgufFacts,
  type TensorRule,
} from "./architectures/index.js";
import { headOrder, inOrder, transposed } from "./change.js";
import { dequantise, READABLE } from "./dequantise.js";
import { GgufFile, type Metadata } from "./gguf_file.js";
import { tokenizerFiles } from "./tokenizer.js";

/** A GGUF file, wherever it lies. */
export interface GgufPlace {
  /** The file, and its bare name, for errors. */
  readonly path: string;
  readonly name: string;
  /** Opens it to be read in pieces. @throws FormatError */
  open(): Promise<FileSource>;
}

/** Opens the file for as long as `use` runs. */
async function withFile<T>(place: GgufPlace, use: (file: GgufFile) => T | Promise<T>): Promise<T> {
  const source = await place.open();
  try {
    return await use(await GgufFile.open(place.path, source));
  } finally {
    await source.close();
  }
}

/** @throws ConfigError for an architecture that is not known, FormatError for a part of a split file */
function architectureOf({ file, metadata }: GgufFile): Architecture {
  if (Number(metadata.get("split.count") ?? 1) > 1)
    throw new FormatError(
      file,
      "is one of several parts of a model; llama.cpp's gguf-split --merge joins them",
    );
  const given = metadata.get("general.architecture");
  const found = ARCHITECTURES.find(({ name }) => name === given);
  if (!found)
    throw new ConfigError(
      file,
      `general.architecture is ${typeof given === "string" ? JSON.stringify(given.slice(0, 80)) : "missing"}; known: ${ARCHITECTURES.map(({ name }) => name).join(", ")}`,
    );
  return found;
}

/** The shortest decimal number that rounds to the same float32: 1e-5 and not 0.000009999999747. */
function shortest(value: number): number {
  if (Math.fround(value) !== value || Number.isInteger(value)) return value;
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

/** Metadata below the architecture's name; a list with a value for each layer is one value where all are equal. */
function fieldsOf(file: string, { name }: Architecture, metadata: Metadata): Fields {
  const json: Record<string, unknown> = {};
  for (const [key, value] of metadata) {
    if (!key.startsWith(`${name}.`)) continue;
    const equal = Array.isArray(value) && value.length > 0 && value.every((x) => x === value[0]);
    const one: unknown = equal ? (value as unknown[])[0] : value;
    json[key.slice(name.length + 1)] = typeof one === "number" ? shortest(one) : one;
  }
  return new Fields(file, json);
}

const LAYER = /^blk\.(\d{1,6})\.(.+)$/;

function factsOf(file: GgufFile, architecture: Architecture): GgufFacts {
  const { tensors } = file;
  return {
    fields: fieldsOf(file.file, architecture, file.metadata),
    has: (name) => tensors.has(name),
    layersWith: (below) =>
      [...tensors.keys()].flatMap((name) => {
        const match = LAYER.exec(name);
        return match?.[2] === below ? [Number(match[1])] : [];
      }),
    numbers: async (name) => (tensors.has(name) ? Array.from(await file.numbers(name), shortest) : undefined),
  };
}

const SPECIAL = ["bos", "eos", "padding"] as const;

/** Ids of tokens that config.json names; a text also ends at the end of a turn. */
function tokenIds({ metadata, file }: GgufFile): Record<string, unknown> {
  const ids = new Fields(
    file,
    Object.fromEntries([...metadata].filter(([key]) => key.endsWith("_token_id"))),
  );
  const id = (name: string): number | undefined => ids.optionalInteger(`tokenizer.ggml.${name}_token_id`, 0);
  const out: Record<string, unknown> = {};
  for (const name of SPECIAL) {
    const value = id(name);
    if (value !== undefined) out[`${name === "padding" ? "pad" : name}_token_id`] = value;
  }
  const [eos, eot] = [id("eos"), id("eot")];
  if (eos !== undefined && eot !== undefined && eot !== eos) out["eos_token_id"] = [eos, eot];
  return out;
}

/** What a config.json of the file's family says. */
async function configOf(file: GgufFile): Promise<Record<string, unknown>> {
  const architecture = architectureOf(file);
  const facts = factsOf(file, architecture);
  const { families, keys } = architecture;
  const shared: Record<string, unknown> = {};
  for (const { gguf, own, optional } of keys) {
    const value = facts.fields.get(gguf);
    if (value !== undefined) shared[own] = value;
    else if (!optional) facts.fields.fail(`${architecture.name}.${gguf}`, "is missing");
  }
  const config: Record<string, unknown> = {
    model_type: Object.keys(families)[0]!,
    ...shared,
    ...tokenIds(file),
    vocab_size: file.tensor("token_embd.weight").shape[0] ?? 0,
    tie_word_embeddings: !facts.has("output.weight"),
    ...(await architecture.config(facts)),
  };
  return { architectures: [families[config["model_type"] as string]], ...config };
}

/** The rule of a tensor, and the layer that stands for `{n}`. */
function ruleOf(architecture: Architecture, name: string): { rule: TensorRule; layer: string } | undefined {
  const match = LAYER.exec(name);
  const rule = architecture.tensors[match ? `blk.{n}.${match[2]!}` : name];
  return rule && { rule, layer: match?.[1] ?? "" };
}

/** A tensor as a Hugging Face folder has it: one, or one for each expert. */
function storedTensors(
  file: GgufFile,
  name: string,
  { own, change }: TensorRule,
  heads: (key: string) => number,
): [string, StoredTensor][] {
  const { type, shape } = file.tensor(name);
  const readable = READABLE.includes(type.name);
  const refusal = `${quoted(name)} is ${type.name}; weights of ${READABLE.join(", ")} are read`;
  const all = { file: file.file, name, type: type.name, shape, readable, refusal };
  const fail = (message: string): never => {
    throw new FormatError(file.file, `${quoted(name)} ${message}`);
  };
  const whole = (bytes: () => Promise<Uint8Array>, changed = all): StoredTensor => ({
    ...changed,
    floats: async () => dequantise(file.file, name, type, await bytes()),
    bytes,
  });
  const stored = (): Promise<Uint8Array> => file.bytes(name);
  switch (change?.kind) {
    case undefined:
      return [[own, whole(stored)]];
    case "heads": {
      const rows = shape[0] ?? 0;
      const count = heads(change.count);
      if (rows % (2 * count) !== 0)
        fail(`has ${rows} rows; they must divide into ${count} heads of even size`);
      return [[own, whole(async () => inOrder(await stored(), headOrder(rows, count, "read")))]];
    }
    case "numbers": {
      const floats = async (): Promise<Float32Array> => (await file.numbers(name)).map(change.read);
      return [[own, { ...all, floats }]];
    }
    case "transposed": {
      const [rows = 0, columns = 0] = shape;
      if (shape.length !== 2) fail(`has ${shape.length} axes; it must be a matrix`);
      const floats = async (): Promise<Float32Array> => transposed(await file.numbers(name), rows, columns);
      return [[own, { ...all, shape: [columns, rows], floats, outputsFirst: { shape, bytes: stored } }]];
    }
    case "squeezed": {
      const [rows = 0, columns = 0] = shape;
      if (shape.length !== 2) fail(`has ${shape.length} axes; it must be a matrix`);
      return [[own, whole(stored, { ...all, shape: [rows, 1, columns] })]];
    }
    case "experts": {
      const [experts = 0, ...rest] = shape;
      if (rest.length !== 2) fail(`has ${shape.length} axes; it must hold a matrix for each expert`);
      return Array.from({ length: experts }, (_, e) => [
        own.replace("{e}", String(e)),
        whole(() => file.part(name, e, experts), { ...all, shape: rest }),
      ]);
    }
  }
}

async function openTensors(place: GgufPlace): Promise<StoredTensors> {
  const source = await place.open();
  const close = (): Promise<void> => source.close();
  try {
    const file = await GgufFile.open(place.path, source);
    const architecture = architectureOf(file);
    const config = await configOf(file);
    const heads = (key: string): number => (config[key] ?? config["num_attention_heads"]) as number;
    const tensors = new Map<string, StoredTensor>();
    for (const name of file.tensors.keys()) {
      if (ROPE_TENSORS.includes(name)) continue;
      const found = ruleOf(architecture, name);
      // What has no rule keeps its name, and is refused by it.
      const { own, change } = found?.rule ?? { own: name };
      const rule = { own: own.replace("{n}", found?.layer ?? ""), ...(change ? { change } : {}) };
      for (const [key, tensor] of storedTensors(file, name, rule, heads)) tensors.set(key, tensor);
    }
    return { tensors, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A GGUF file as a model's source, told as a Hugging Face folder. */
export function ggufSource(place: GgufPlace): ModelSource {
  let beside: Promise<Readonly<Record<string, string>>> | undefined;
  const files = (): Promise<Readonly<Record<string, string>>> => (beside ??= withFile(place, tokenizerFiles));
  return {
    path: place.path,
    configFile: place.name,
    config: () => withFile(place, configOf),
    generation: () => Promise.resolve(undefined),
    open: () => openTensors(place),
    files: async () => Object.keys(await files()),
    file: async (name) => (await files())[name],
  };
}
