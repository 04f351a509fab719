import type { TensorData } from "@x/kernels/safetensors";
import { checkConfig, ConfigError, FormatError, type DType, type Gpu, type Tensor } from "@x/kernels";
import { loadTokenizer, type Tokenizer } from "@x/tokenizer";
import type { Components } from "../components/index.js";
import { expectObject, Fields, type ModelConfig } from "../config/index.js";
import { modelConfig, tensorNames, type Reading, type TensorNames } from "../families/index.js";
import { CausalLM } from "../model/model.js";
import { arranged, part } from "./names.js";
import { filesSource, modelSource } from "./source.js";
import { quoted, type ModelSource, type StoredTensor } from "./stored.js";

/** A model's weights, and how its source refuses what it cannot give. */
interface ReadWeights {
  /** On the device, under the model's names, with the experts of a layer stacked. */
  readonly parameters: Record<string, Tensor>;
  /** Why a tensor is not among them. */
  readonly missing: (name: string) => Error;
  /** The source's name of a tensor. */
  readonly nameOf: (name: string) => string;
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
  names: TensorNames,
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

/** The numbers of one of the model's tensors, as the model has them. */
async function numbersAt({ found, reading, index }: Place): Promise<TensorData> {
  const whole = arranged({ data: await found.floats(), shape: found.shape }, reading);
  const rows = reading.targets[index]!.rows;
  return rows ? part(found.file, found.name, whole, rows, reading.axis) : whole;
}

/** The matrices of a layer's experts as one tensor [experts, ...]. */
async function stacked(path: string, key: string, places: readonly Place[]): Promise<TensorData> {
  const byIndex = new Map(places.map((place) => [place.reading.expert!, place]));
  const first = byIndex.get(0);
  if (!first) throw new FormatError(path, `${key}: expert 0 is missing`);
  const { shape, data: numbers } = await numbersAt(first);
  const data = new Float32Array(byIndex.size * numbers.length);
  for (let i = 0; i < byIndex.size; i++) {
    const place = byIndex.get(i);
    if (!place) throw new FormatError(path, `${key}: expert ${i} of ${byIndex.size} is missing`);
    const expert = i === 0 ? { shape, data: numbers } : await numbersAt(place);
    if (expert.shape.length !== shape.length || expert.shape.some((n, axis) => n !== shape[axis]))
      throw new FormatError(
        place.found.file,
        `${quoted(place.found.name)} has shape [${expert.shape.join(", ")}]; expert 0 has [${shape.join(", ")}]`,
      );
    data.set(expert.data, i * numbers.length);
  }
  return { shape: [byIndex.size, ...shape], data };
}

/** Blocks of quants that kernels read as they are, by the type of a file. */
const BLOCKS: Readonly<Record<string, DType>> = {
  Q8_0: "q8_0",
  Q4_0: "q4_0",
  Q4_1: "q4_1",
  Q5_0: "q5_0",
  Q5_1: "q5_1",
  Q4_K: "q4_k",
  Q5_K: "q5_k",
  Q6_K: "q6_k",
};

/** A matrix of quants as it is stored, or undefined for what has other numbers on the device than in the file. */
async function quants(gpu: Gpu, { found, reading }: Place): Promise<Tensor | undefined> {
  const { type, shape, bytes } = found;
  const dtype = BLOCKS[type];
  const { targets, transposed, without, expert } = reading;
  const whole =
    targets[0]!.rows === undefined && !transposed && without === undefined && expert === undefined;
  if (!dtype || !bytes || !whole || shape.length !== 2) return undefined;
  return gpu.fromBytes(await bytes(), shape, dtype);
}

async function readParameters(
  gpu: Gpu,
  source: ModelSource,
  config: ModelConfig,
  names: TensorNames,
  stored: boolean,
): Promise<ReadWeights> {
  const { path } = source;
  const opened = await source.open();
  const { tensors } = opened;
  const out: Record<string, Tensor> = {};
  try {
    const unread = new Map<string, StoredTensor>();
    const given = new Map<string, string>();
    for (const [name, places] of underModelNames(path, tensors, names, config.tieEmbeddings)) {
      const { found, reading } = places[0]!;
      given.set(name, found.name);
      if (reading.expert === undefined && !found.readable) unread.set(name, found);
      else {
        const blocks = stored ? await quants(gpu, places[0]!) : undefined;
        if (blocks) {
          out[name] = gpu.keep(blocks);
          continue;
        }
        const { data, shape } =
          reading.expert === undefined ? await numbersAt(places[0]!) : await stacked(path, name, places);
        out[name] = gpu.keep(gpu.tensor(data as Float32Array, shape));
      }
    }
    const all = [...tensors.keys()];
    const missing = (name: string): Error => {
      const found = unread.get(name);
      if (found) return new FormatError(found.file, found.refusal);
      const some = all.slice(0, 5).join(", ");
      const held = all.length > 5 ? `${some} and ${all.length - 5} more` : some || "none";
      return new ConfigError(path, `tensor ${names.nameOf(name)} is missing (there are: ${held})`);
    };
    return { parameters: out, missing, nameOf: (name) => given.get(name) ?? name };
  } catch (error) {
    for (const tensor of Object.values(out)) tensor.dispose();
    throw error;
  } finally {
    await opened.close();
  }
}

/** A loaded model. */
export interface Checkpoint {
  readonly model: CausalLM;
  readonly config: ModelConfig;
  /** The parsed config.json, or what a GGUF file says of it. */
  readonly json: Record<string, unknown>;
}

export interface LoadOptions {
  /** Changes config.json before it is read: another context extension. */
  readonly change?: ((json: Record<string, unknown>) => Record<string, unknown>) | undefined;
  /** The parts that a configuration can name; default: those of this repository. */
  readonly components?: Components | undefined;
  /** Keeps quantised matrices on the device as they are stored, for a model that is not trained. Default: false. */
  readonly stored?: boolean | undefined;
}

async function configFrom(
  source: ModelSource,
  change?: LoadOptions["change"],
): Promise<{ config: ModelConfig; json: Record<string, unknown> }> {
  const parsed = await source.config();
  const json = change ? change(parsed) : parsed;
  const config = modelConfig(json, source.configFile);
  const generation = await source.generation();
  if (!generation) return { config, json };
  const { file } = generation;
  const more = new Fields(file, expectObject(file, generation.json)).ids("eos_token_id");
  return { config: { ...config, eosTokenIds: [...new Set([...config.eosTokenIds, ...more])] }, json };
}

/** A model's configuration; a text also ends at the ids that generation_config.json names. */
export async function readConfig(
  path: string,
  change?: LoadOptions["change"],
): Promise<{ config: ModelConfig; json: Record<string, unknown> }> {
  return configFrom(await modelSource(path), change);
}

/**
 * Load a Hugging Face style folder, a folder with one GGUF file, or that file. Either the whole model is there or
 * nothing is: tensors that are missing, left over or of another shape are named.
 *
 * @throws FormatError, ConfigError
 */
export async function loadCheckpoint(gpu: Gpu, path: string, options: LoadOptions = {}): Promise<Checkpoint> {
  checkConfig("loadCheckpoint", options, ["change", "components", "stored"]);
  const source = await modelSource(path);
  const { config, json } = await configFrom(source, options.change);
  const names = tensorNames(json, source.configFile);
  const {
    parameters: given,
    missing,
    nameOf,
  } = await readParameters(gpu, source, config, names, options.stored ?? false);
  try {
    const model = CausalLM.fromParameters(gpu, config, given, options.components, missing);
    const used = new Set(Object.keys(model.state()));
    const extra = Object.keys(given)
      .filter((name) => !used.has(name))
      .map(nameOf);
    if (extra.length > 0)
      throw new ConfigError(
        path,
        `holds tensors that the configuration has no place for: ${extra.slice(0, 5).join(", ")}${extra.length > 5 ? ` and ${extra.length - 5} more` : ""}`,
      );
    return { model, config, json };
  } catch (error) {
    for (const tensor of Object.values(given)) tensor.dispose();
    throw error;
  }
}

/** The tokenizer of a folder or a GGUF file, or undefined where it has none. */
export async function loadFolderTokenizer(path: string): Promise<Tokenizer | undefined> {
  const source = await filesSource(path);
  const text = async (name: string): Promise<string | undefined> => {
    const content = await source.file(name);
    return content instanceof Uint8Array ? new TextDecoder().decode(content) : content;
  };
  if ((await text("tokenizer.json")) === undefined && (await text("vocab.json")) === undefined)
    return undefined;
  // Texts of training and prompts have lengths of their own; a file's are those of a batch.
  return loadTokenizer(text, { truncation: false, padding: false });
}

/** What a model has beside its weights and its configuration, by name: the tokenizer's files and the like. */
export async function filesBeside(path: string): Promise<Record<string, string | Uint8Array>> {
  const source = await filesSource(path);
  const out: Record<string, string | Uint8Array> = {};
  for (const name of await source.files()) out[name] = (await source.file(name)) ?? "";
  return out;
}
