import {
  adaptLinear,
  checkConfig,
  ConfigError,
  FormatError,
  type DType,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import { loadTokenizer, type Tokenizer } from "@x/tokenizer";
import type { Components } from "../components/index.js";
import { expectObject, Fields, type EncoderDecoderConfig, type ModelConfig } from "../config/index.js";
import {
  encoderDecoderConfig,
  isEncoderDecoder,
  modelConfig,
  tensorNames,
  type CheckpointNames,
  type Reading,
} from "../families/index.js";
import { EncoderDecoderLM } from "../model/encoder_decoder.js";
import { CausalLM } from "../model/model.js";
import { adapted, type Term } from "./adapter/adapted.js";
import type { Adapter } from "./adapter/peft.js";
import { arranged, isMultiplied, part, together, type Laid } from "./names.js";
import { quoted, type ReadableModel, type StoredTensor } from "./stored.js";

/** A model's weights, and how its source refuses what it cannot give. */
interface ReadWeights {
  /** On the device, under the model's names, with the experts of a layer stacked. */
  readonly parameters: Record<string, Tensor>;
  /** Why a tensor is not among them. */
  readonly missing: (name: string) => Error;
  /** The source's name of a tensor. */
  readonly nameOf: (name: string) => string;
  /** What adapters add to products. */
  readonly terms: readonly Term[];
}

/** A tensor of the model, and where a source has it. */
interface Place {
  readonly found: StoredTensor;
  readonly reading: Reading;
  /** Which of the tensors that the source's tensor holds. */
  readonly index: number;
}

/** A source's tensors under the model's names; tied embeddings are one, whichever of the two is there. */
function underModelNames(
  path: string,
  tensors: ReadonlyMap<string, StoredTensor>,
  names: CheckpointNames,
  tied: boolean,
): Map<string, readonly Place[]> {
  const read = names.reader([...tensors.keys()]);
  const out = new Map<string, Place[]>();
  for (const [given, found] of tensors) {
    const reading = read(given);
    reading?.targets.forEach(({ name }, index) => {
      const places = out.get(name) ?? [];
      const same = places.find((place) => place.reading.expert === reading.expert);
      if (same)
        throw new FormatError(
          path,
          `tensors ${JSON.stringify(same.found.name)} and ${JSON.stringify(found.name)} are both the model's ${name}`,
        );
      places.push({ found, reading, index });
      out.set(name, places);
    });
  }
  const head = out.get("lm_head.weight");
  if (tied && head) {
    out.delete("lm_head.weight");
    if (!out.has("model.embed_tokens.weight")) out.set("model.embed_tokens.weight", head);
  }
  return out;
}

/** Types that kernels read as they are stored, by the type of a file. */
const STORED: Readonly<Record<string, DType>> = {
  F16: "f16",
  BF16: "bf16",
  Q8_0: "q8_0",
  Q4_0: "q4_0",
  Q4_1: "q4_1",
  Q5_0: "q5_0",
  Q5_1: "q5_1",
  Q4_K: "q4_k",
  Q5_K: "q5_k",
  Q6_K: "q6_k",
};

/** What of a tensor goes to the device: its numbers, or, with a type, what its file stores. */
interface Piece extends Laid {
  readonly dtype?: DType | undefined;
}

/** A tensor's bytes with outputs before inputs, where its file stores them in a type that kernels read. */
function storedForm(
  { type, shape, bytes, outputsFirst }: StoredTensor,
  transposed: boolean,
):
  | {
      readonly dtype: DType;
      readonly shape: readonly number[];
      readonly swap: boolean;
      readonly bytes: () => Promise<Uint8Array>;
    }
  | undefined {
  const dtype = STORED[type];
  if (dtype === undefined) return undefined;
  if (transposed && outputsFirst) return { dtype, ...outputsFirst, swap: false };
  // Rows of quants have no columns that could be exchanged.
  const halves = dtype === "f16" || dtype === "bf16";
  return bytes && (halves || !transposed) ? { dtype, shape, bytes, swap: transposed } : undefined;
}

/** One of the model's tensors, as the model has it: as it is stored where that is asked for and kernels read it so. */
async function pieceAt({ found, reading, index }: Place, stored: boolean): Promise<Piece> {
  const { name, rows } = reading.targets[index]!;
  const form = stored && isMultiplied(name) ? storedForm(found, reading.transposed ?? false) : undefined;
  const bytes = form && (await form.bytes());
  const data =
    bytes === undefined
      ? await found.floats()
      : form!.dtype === "f16" || form!.dtype === "bf16"
        ? new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength))
        : bytes;
  const { transposed, ...layout } = reading;
  const swap = form ? form.swap : (transposed ?? false);
  const whole = arranged(
    { data, shape: form?.shape ?? found.shape },
    swap ? { ...layout, transposed: true } : layout,
  );
  return {
    ...(rows ? part(found.file, found.name, whole, rows, reading.axis) : whole),
    dtype: form?.dtype,
  };
}

/** The matrices of a layer's experts as one tensor [experts, ...]. */
async function stackOf(path: string, key: string, places: readonly Place[], stored: boolean): Promise<Piece> {
  const byIndex = new Map(places.map((place) => [place.reading.expert!, place]));
  const pieces: Piece[] = [];
  for (let i = 0; i < byIndex.size; i++) {
    const place = byIndex.get(i);
    if (!place)
      throw new FormatError(path, `${key}: expert ${i}${i === 0 ? "" : ` of ${byIndex.size}`} is missing`);
    const piece = await pieceAt(place, stored);
    const first = pieces[0] ?? piece;
    if (piece.shape.length !== first.shape.length || piece.shape.some((n, axis) => n !== first.shape[axis]))
      throw new FormatError(
        place.found.file,
        `${quoted(place.found.name)} has shape [${piece.shape.join(", ")}]; expert 0 has [${first.shape.join(", ")}]`,
      );
    if (piece.dtype !== first.dtype)
      throw new FormatError(
        place.found.file,
        `${quoted(place.found.name)} is ${place.found.type}; expert 0 is ${byIndex.get(0)!.found.type}`,
      );
    pieces.push(piece);
  }
  return { ...together(pieces), dtype: pieces[0]!.dtype };
}

function upload(gpu: Gpu, { data, shape, dtype }: Piece): Tensor {
  if (dtype === undefined) return gpu.keep(gpu.tensor(data as Float32Array, shape));
  return gpu.keep(gpu.fromBytes(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), shape, dtype));
}

/** Bytes of weights that may wait for the device while the next are read. */
const STAGED_BYTES = 64 * 2 ** 20;

interface ReadOptions extends Pick<LoadOptions, "stored" | "onTensor" | "adapters"> {
  /** Whether adapters may be added to products; else they are merged. */
  readonly onTop: boolean;
}

async function readParameters(
  gpu: Gpu,
  source: ReadableModel,
  tied: boolean,
  names: CheckpointNames,
  { stored = false, onTensor, adapters = [], onTop }: ReadOptions,
): Promise<ReadWeights> {
  const { path } = source;
  const opened = await source.open();
  const out: Record<string, Tensor> = {};
  try {
    const { tensors, terms } = adapted(opened.tensors, adapters, { path, names, tied, onTop });
    const unread = new Map<string, StoredTensor>();
    const given = new Map<string, string>();
    const all = underModelNames(path, tensors, names, tied);
    let [done, waiting] = [0, 0];
    for (const [name, places] of all) {
      onTensor?.(done++, all.size);
      const { found, reading } = places[0]!;
      given.set(name, found.name);
      if (reading.expert === undefined && !found.readable) unread.set(name, found);
      else {
        const piece =
          reading.expert === undefined
            ? await pieceAt(places[0]!, stored)
            : await stackOf(path, name, places, stored);
        out[name] = upload(gpu, piece);
        // Queued writes keep a copy in host memory until the device has taken them.
        waiting += piece.data.byteLength;
        if (waiting >= STAGED_BYTES) {
          await gpu.sync();
          waiting = 0;
        }
      }
    }
    onTensor?.(done, all.size);
    const held = [...tensors.keys()];
    const missing = (name: string): Error => {
      const found = unread.get(name);
      if (found) return new FormatError(found.file, found.refusal);
      const some = held.slice(0, 5).join(", ");
      const these = held.length > 5 ? `${some} and ${held.length - 5} more` : some || "none";
      return new ConfigError(path, `tensor ${names.nameOf(name)} is missing (there are: ${these})`);
    };
    return { parameters: out, missing, nameOf: (name) => given.get(name) ?? name, terms };
  } catch (error) {
    for (const tensor of Object.values(out)) tensor.dispose();
    throw error;
  } finally {
    await opened.close();
  }
}

/** A model that was read, with its configuration. */
interface Read<M, C> {
  readonly model: M;
  readonly config: C;
  /** The parsed config.json, or what a GGUF file says of it. */
  readonly json: Record<string, unknown>;
}

/** A loaded decoder-only model. */
export type Checkpoint = Read<CausalLM, ModelConfig>;
/** A loaded encoder-decoder. */
export type EncoderDecoderCheckpoint = Read<EncoderDecoderLM, EncoderDecoderConfig>;

export interface LoadOptions {
  /** Changes config.json before it is read: another context extension. */
  readonly change?: ((json: Record<string, unknown>) => Record<string, unknown>) | undefined;
  /** The parts that a configuration can name; default: those of this repository. */
  readonly components?: Components | undefined;
  /** Keeps halves and quants of matrices on the device as they are stored, for a model that is not trained. Default: false. */
  readonly stored?: boolean | undefined;
  /** LoRA adapters, each on the ones before it; the weights of products stay as they are stored. */
  readonly adapters?: readonly Adapter[] | undefined;
  /** Called before each tensor of the model is read, and after the last; what it throws ends the loading. */
  readonly onTensor?: ((done: number, total: number) => void) | undefined;
}

type Json = Record<string, unknown>;

const jsonFrom = async (source: ReadableModel, change: LoadOptions["change"]): Promise<Json> => {
  const parsed = await source.config();
  return change ? change(parsed) : parsed;
};

/** A configuration whose texts also end at the ids that generation_config.json names, and that file's keys. */
async function withEnds(
  source: ReadableModel,
  config: ModelConfig,
): Promise<{ config: ModelConfig; generation: Fields | undefined }> {
  const given = await source.generation();
  if (!given) return { config, generation: undefined };
  const generation = new Fields(given.file, expectObject(given.file, given.json));
  const eosTokenIds = [...new Set([...config.eosTokenIds, ...generation.ids("eos_token_id")])];
  return { config: { ...config, eosTokenIds }, generation };
}

/** A decoder-only model's configuration; a text also ends at the ids that generation_config.json names. */
export async function configFrom(
  source: ReadableModel,
  change?: LoadOptions["change"],
): Promise<{ config: ModelConfig; json: Json }> {
  const json = await jsonFrom(source, change);
  return { config: (await withEnds(source, modelConfig(json, source.configFile))).config, json };
}

/** An encoder-decoder's configuration; what generation_config.json names takes the place of its start id. */
async function encoderDecoderFrom(source: ReadableModel, json: Json): Promise<EncoderDecoderConfig> {
  const config = encoderDecoderConfig(json, source.configFile);
  const { config: decoder, generation } = await withEnds(source, config.decoder);
  const start = config.decoderStartTokenId;
  const last = decoder.vocabSize - 1;
  return {
    ...config,
    decoder,
    decoderStartTokenId: generation?.integer("decoder_start_token_id", start, 0, last) ?? start,
  };
}

/** A model of a source's tensors; those that it has no place for are an error. */
async function built<M extends CausalLM | EncoderDecoderLM>(
  gpu: Gpu,
  source: ReadableModel,
  { json, tied, ...options }: LoadOptions & ReadOptions & { readonly json: Json; readonly tied: boolean },
  make: (given: Record<string, Tensor>, missing: ReadWeights["missing"]) => M,
): Promise<{ readonly model: M; readonly terms: readonly Term[] }> {
  const names = tensorNames(json, source.configFile);
  const read = await readParameters(gpu, source, tied, names, options);
  const { parameters: given, missing, nameOf } = read;
  try {
    const model = make(given, missing);
    const used = new Set(Object.keys(model.state()));
    const extra = Object.keys(given)
      .filter((name) => !used.has(name))
      .map(nameOf);
    if (extra.length > 0)
      throw new ConfigError(
        source.path,
        `holds tensors that the configuration has no place for: ${extra.slice(0, 5).join(", ")}${extra.length > 5 ? ` and ${extra.length - 5} more` : ""}`,
      );
    return { model, terms: read.terms };
  } catch (error) {
    for (const tensor of Object.values(given)) tensor.dispose();
    throw error;
  }
}

/** Adds the changes of adapters to a model's products; they are freed with it. */
function attach(model: CausalLM, terms: readonly Term[]): void {
  const state = model.state();
  for (const { name, a, b, scale } of terms) {
    // A head that is tied to the embedding has no name of its own.
    const weight = state[name] ?? model.headWeight;
    const [first, second] = [a, b].map(({ data, shape }) => upload(model.gpu, { data, shape })) as [
      Tensor,
      Tensor,
    ];
    model.adopt([first, second]);
    adaptLinear(weight, { a: first, b: second, scale });
  }
}

const OPTIONS = ["change", "components", "stored", "adapters", "onTensor"] as const;

/**
 * Make a model of what a source holds. Either the whole model is there or
 * nothing is: tensors that are missing, left over or of another shape are named.
 *
 * @throws FormatError, ConfigError
 */
export async function assembleAny(
  gpu: Gpu,
  source: ReadableModel,
  options: LoadOptions = {},
): Promise<Checkpoint | EncoderDecoderCheckpoint> {
  checkConfig("loadCheckpoint", options, OPTIONS);
  const json = await jsonFrom(source, options.change);
  if (!isEncoderDecoder(json, source.configFile)) return assemble(gpu, source, options);
  const config = await encoderDecoderFrom(source, json);
  const { headIfStored, decoder } = config;
  const all = { ...options, json, tied: decoder.tieEmbeddings && !headIfStored, onTop: false };
  const { model } = await built(gpu, source, all, (given, missing) => {
    const tieEmbeddings = headIfStored ? given["lm_head.weight"] === undefined : decoder.tieEmbeddings;
    const own = { ...config, decoder: { ...decoder, tieEmbeddings } };
    return EncoderDecoderLM.fromParameters(gpu, own, given, options.components, missing);
  });
  return { model, config: model.config, json };
}

/**
 * Make a decoder-only model of what a source holds; see `assembleAny`.
 *
 * @throws FormatError, ConfigError
 */
export async function assemble(
  gpu: Gpu,
  source: ReadableModel,
  options: LoadOptions = {},
): Promise<Checkpoint> {
  checkConfig("loadCheckpoint", options, OPTIONS);
  const { config, json } = await configFrom(source, options.change);
  const all = { ...options, json, tied: config.tieEmbeddings, onTop: true };
  const { model, terms } = await built(gpu, source, all, (given, missing) =>
    CausalLM.fromParameters(gpu, config, given, options.components, missing),
  );
  attach(model, terms);
  return { model, config, json };
}

/** The tokenizer of a source, or undefined where it has none. */
export async function tokenizerFrom(source: Pick<ReadableModel, "file">): Promise<Tokenizer | undefined> {
  const text = async (name: string): Promise<string | undefined> => {
    const content = await source.file(name);
    return content instanceof Uint8Array ? new TextDecoder().decode(content) : content;
  };
  if ((await text("tokenizer.json")) === undefined && (await text("vocab.json")) === undefined)
    return undefined;
  // Texts of training and prompts have lengths of their own; a file's are those of a batch.
  return loadTokenizer(text, { truncation: false, padding: false });
}
