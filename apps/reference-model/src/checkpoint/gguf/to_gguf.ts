import { basename } from "node:path";
import { ConfigError, toHalfBits } from "@x/kernels";
import { writeAtomically } from "../files.js";
import { quantised } from "../quantised.js";
import type { ModelSource, StoredTensor } from "../stored.js";
import {
  ARCHITECTURES,
  ropeTensors,
  type Architecture,
  type Json,
  type TensorRule,
  type WrittenValue,
} from "./architectures/index.js";
import { headOrder, inOrder, transposed } from "./change.js";
import { TENSOR_TYPES, typeNumber } from "./tensor_types.js";
import { ggufBytes, type WrittenTensor } from "./write_gguf.js";
import { tokenizerMetadata } from "./write_tokenizer.js";

/** What matrices are written in, with the label that a file of it has (`general.file_type`). */
export const GGUF_TYPES = {
  f32: { type: "F32", label: 0 },
  f16: { type: "F16", label: 1 },
  q8: { type: "Q8_0", label: 7 },
  q4: { type: "Q4_0", label: 2 },
} as const;
export type GgufType = keyof typeof GGUF_TYPES;

/** Matrices that llama.cpp wants in F32. */
const EXACT = /^position_embd\.|\.(ffn_gate_inp|ssm_conv1d|ssm_x|ssm_dt)\.|\.ssm_[ad]$/;
const HIGHEST_F16 = 65504;

/**
 * The type of a tensor: vectors stay exact, rows that are no whole number of blocks are halves, and of four bits the
 * matrix of the logits has eight.
 */
function typeFor(wanted: GgufType, name: string, shape: readonly number[], head: string): string {
  if (shape.length < 2 || EXACT.test(name)) return "F32";
  const { type } = GGUF_TYPES[wanted === "q4" && name === head ? "q8" : wanted];
  return shape.at(-1)! % TENSOR_TYPES.get(typeNumber(type))!.values === 0 ? type : "F16";
}

function encoded(who: string, type: string, data: Float32Array): Uint8Array {
  if (type === "F32") return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (type === "Q8_0" || type === "Q4_0") return quantised(who, data, type);
  // Half of the distance to the next number above still rounds down.
  const beyond = data.find((x) => Number.isFinite(x) && Math.abs(x) >= HIGHEST_F16 + 16);
  if (beyond !== undefined)
    throw new ConfigError(who, `holds ${beyond}; f16 holds at most ${HIGHEST_F16}: take f32`);
  return new Uint8Array(Uint16Array.from(data, toHalfBits).buffer);
}

/** The rule that writes a folder's tensor, with the layer and the expert that its name has. */
interface Place {
  readonly gguf: string;
  readonly rule: TensorRule;
  readonly expert: number;
}

/** Where an architecture puts the tensors of a folder, by their names there. */
function placer(architecture: Architecture): (name: string) => Place | undefined {
  const rules = Object.entries(architecture.tensors).map(([gguf, rule]) => {
    const pattern = rule.own.replaceAll(".", "\\.").replace("{n}", "(?<n>\\d+)").replace("{e}", "(?<e>\\d+)");
    return { gguf, rule, pattern: new RegExp(`^${pattern}$`) };
  });
  return (name) => {
    for (const { gguf, rule, pattern } of rules) {
      const groups = pattern.exec(name)?.groups;
      if (groups !== undefined || pattern.test(name))
        return { gguf: gguf.replace("{n}", groups?.["n"] ?? ""), rule, expert: Number(groups?.["e"] ?? 0) };
    }
    return undefined;
  };
}

/** What folders hold though every model computes it. */
const COMPUTED = /(^|\.)rotary_emb\.inv_freq$/;
const HEAD = "lm_head.weight";

/** Names as the architecture's rules have them: what stands before the embedding's name in a folder is replaced. */
function fullNames(architecture: Architecture, names: readonly string[]): (name: string) => string {
  const { own } = architecture.tensors["token_embd.weight"]!;
  const prefix = own.slice(0, own.indexOf(".") + 1);
  const embedding = own.slice(prefix.length);
  const found = names.find((name) => name === embedding || name.endsWith(`.${embedding}`));
  const wrapper = found?.slice(0, -embedding.length) ?? prefix;
  return (name) => {
    if (name === HEAD || name.endsWith(`.${HEAD}`)) return HEAD;
    return name.startsWith(wrapper) ? prefix + name.slice(wrapper.length) : name;
  };
}

interface Gathered {
  readonly rule: TensorRule;
  /** One tensor, or one for each expert. */
  readonly parts: Map<number, StoredTensor>;
}

/** The tensors of a folder under GGUF's names. @throws ConfigError for those that have no place */
function gather(
  path: string,
  architecture: Architecture,
  tensors: ReadonlyMap<string, StoredTensor>,
  tied: boolean,
): Map<string, Gathered> {
  const place = placer(architecture);
  const rename = fullNames(architecture, [...tensors.keys()]);
  const out = new Map<string, Gathered>();
  const left: string[] = [];
  for (const [given, tensor] of tensors) {
    const name = rename(given);
    if (COMPUTED.test(given) || architecture.ignored?.test(name)) continue;
    const found = place(name);
    if (!found) {
      left.push(given);
      continue;
    }
    const entry = out.get(found.gguf) ?? { rule: found.rule, parts: new Map<number, StoredTensor>() };
    entry.parts.set(found.expert, tensor);
    out.set(found.gguf, entry);
  }
  const [embedding, head] = ["token_embd.weight", "output.weight"];
  if (tied && out.has(head) && !out.has(embedding)) out.set(embedding, out.get(head)!);
  if (tied) out.delete(head);
  if (left.length > 0)
    throw new ConfigError(
      path,
      `holds tensors that GGUF's ${architecture.name} has no place for: ${left.slice(0, 5).join(", ")}${left.length > 5 ? ` and ${left.length - 5} more` : ""}`,
    );
  if (!out.has(embedding)) throw new ConfigError(path, `has no tensor for ${embedding}`);
  return out;
}

/** A folder's numbers as GGUF has them. */
function changed(
  { change }: TensorRule,
  tensor: StoredTensor,
  data: Float32Array,
  config: Json,
): Float32Array {
  const [rows = 0, columns = 0] = tensor.shape;
  switch (change?.kind) {
    case "heads": {
      const heads = (config[change.count] ?? config["num_attention_heads"]) as number;
      return inOrder(data, headOrder(rows, heads, "write"));
    }
    case "numbers":
      return data.map(change.write);
    case "transposed":
      return transposed(data, rows, columns);
    default:
      return data;
  }
}

function shapeOf({ change }: TensorRule, first: StoredTensor, parts: number): readonly number[] {
  const { shape } = first;
  switch (change?.kind) {
    case "transposed":
      return shape.toReversed();
    case "squeezed":
      return shape.filter((_, axis) => axis !== 1);
    case "experts":
      return [parts, ...shape];
    default:
      return shape;
  }
}

function writtenTensor(
  name: string,
  { rule, parts }: Gathered,
  config: Json,
  wanted: GgufType,
  head: string,
): WrittenTensor {
  const first = parts.get(0);
  const whole = Array.from({ length: parts.size }, (_, e) => parts.get(e));
  if (!first || whole.some((part) => part?.shape.join() !== first.shape.join()))
    throw new ConfigError(name, "the matrices of its experts are not all there, or not of one shape");
  const shape = shapeOf(rule, first, parts.size);
  const type = typeFor(wanted, name, shape, head);
  return {
    name,
    type,
    shape,
    bytes: async function* () {
      for (const part of whole) yield encoded(name, type, changed(rule, part!, await part!.floats(), config));
    },
  };
}

function sharedMetadata(
  file: string,
  { name, keys, fixed }: Architecture,
  config: Json,
): Record<string, WrittenValue> {
  for (const [key, values] of Object.entries(fixed ?? {})) {
    const value = config[key] ?? undefined;
    if (value !== undefined && !values.includes(value))
      throw new ConfigError(
        file,
        `${key} is ${JSON.stringify(value)}; llama.cpp's ${name} computes ${values.map((v) => JSON.stringify(v)).join(" or ")}`,
      );
  }
  const out: Record<string, WrittenValue> = {};
  for (const { gguf, own, type, optional } of keys) {
    const value = config[own] ?? undefined;
    if (typeof value === "number") out[gguf] = { type, value };
    else if (!optional)
      throw new ConfigError(
        file,
        `${own} is ${value === undefined ? "missing" : JSON.stringify(value)}; GGUF needs a number`,
      );
  }
  return out;
}

/** What a file says besides its tensors. */
async function metadataOf(
  source: ModelSource,
  architecture: Architecture,
  config: Json,
  vocabSize: number,
  wanted: GgufType,
): Promise<Record<string, WrittenValue>> {
  const below = {
    vocab_size: { type: "u32", value: vocabSize } as const,
    ...sharedMetadata(source.configFile, architecture, config),
    ...architecture.metadata(config),
  };
  const tokenizer = await tokenizerMetadata(source, config, vocabSize);
  // By some names llama.cpp looks for tokens that a vocabulary without texts has not.
  const named = (await source.file("tokenizer.json")) !== undefined;
  return {
    "general.architecture": { type: "string", value: architecture.name },
    ...(named ? { "general.name": { type: "string", value: basename(source.path) } as const } : {}),
    "general.file_type": { type: "u32", value: GGUF_TYPES[wanted].label },
    "general.quantization_version": { type: "u32", value: 2 },
    ...Object.fromEntries(
      Object.entries(below).map(([key, value]) => [`${architecture.name}.${key}`, value]),
    ),
    ...tokenizer,
  };
}

/** The architecture of llama.cpp that a family of folders is, if there is one. */
export const ggufArchitecture = (type: unknown): Architecture | undefined =>
  ARCHITECTURES.find(({ families }) => typeof type === "string" && Object.hasOwn(families, type));

/**
 * Write a model as a GGUF file, tensor by tensor: no more than one of them is in memory. Returns what llama.cpp will
 * compute otherwise than the model.
 *
 * @throws ConfigError for a family that llama.cpp has not, or that this cannot be said of in GGUF; FormatError
 */
export async function writeGguf(path: string, source: ModelSource, wanted: GgufType): Promise<string[]> {
  const config = await source.config();
  const type = config["model_type"];
  const architecture = ggufArchitecture(type);
  if (!architecture)
    throw new ConfigError(
      source.configFile,
      `model_type is ${JSON.stringify(type)}; GGUF files are written of ${ARCHITECTURES.flatMap(({ families }) => Object.keys(families)).join(", ")}`,
    );
  const opened = await source.open();
  try {
    const tied = config["tie_word_embeddings"] ?? architecture.tied ?? false;
    const gathered = gather(source.path, architecture, opened.tensors, tied === true);
    const head = gathered.has("output.weight") ? "output.weight" : "token_embd.weight";
    const vocabSize = gathered.get("token_embd.weight")!.parts.get(0)!.shape[0]!;
    const metadata = await metadataOf(source, architecture, config, vocabSize, wanted);
    const factors = Object.entries(
      architecture.rotates === false ? {} : ropeTensors(config, architecture.layerType),
    );
    const tensors = [
      ...[...gathered].map(([name, entry]) => writtenTensor(name, entry, config, wanted, head)),
      ...factors.map(([name, data]): WrittenTensor => ({
        name,
        type: "F32",
        shape: [data.length],
        bytes: () => [encoded(name, "F32", data)],
      })),
    ];
    await writeAtomically(path, ggufBytes(metadata, tensors));
    return [...(architecture.differs?.(config) ?? [])];
  } finally {
    await opened.close();
  }
}
