import { checkConfig, ConfigError, FormatError, type Gpu, type Tensor } from "@x/kernels";
import { loadTokenizer, type Tokenizer } from "@x/tokenizer";
import type { Components } from "../components/index.js";
import { expectObject, Fields, modelConfig, type ModelConfig } from "../config/index.js";
import { CausalLM } from "../model/model.js";
import { COMPUTED, expertTensor, modelNames } from "./names.js";
import { filesSource, modelSource } from "./source.js";
import { quoted, type ModelSource, type StoredTensor } from "./stored.js";

/** A model's weights, and how its source refuses what it cannot give. */
interface ReadWeights {
  /** On the device, under the model's names, with the experts of a layer stacked. */
  readonly parameters: Record<string, Tensor>;
  /** Why a tensor is not among them. */
  readonly missing: (name: string) => Error;
}

/** A source's tensors under the model's names; tied embeddings are one, whichever of the two is there. */
function underModelNames(
  path: string,
  tensors: ReadonlyMap<string, StoredTensor>,
  tied: boolean,
): Map<string, StoredTensor> {
  const rename = modelNames([...tensors.keys()]);
  const out = new Map<string, StoredTensor>();
  for (const [given, found] of tensors) {
    if (COMPUTED.test(given)) continue;
    const name = rename(given);
    if (out.has(name))
      throw new FormatError(
        path,
        `tensors ${JSON.stringify(out.get(name)!.name)} and ${JSON.stringify(found.name)} are both the model's ${name}`,
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

/** The matrices of a layer's experts as one tensor [experts, ...]. */
async function stacked(
  gpu: Gpu,
  path: string,
  key: string,
  experts: ReadonlyMap<number, StoredTensor>,
): Promise<Tensor> {
  const first = experts.get(0);
  if (!first) throw new FormatError(path, `${key}: expert 0 is missing`);
  const { shape } = first;
  const size = shape.reduce((a, b) => a * b, 1);
  const data = new Float32Array(experts.size * size);
  for (let i = 0; i < experts.size; i++) {
    const found = experts.get(i);
    if (!found) throw new FormatError(path, `${key}: expert ${i} of ${experts.size} is missing`);
    if (found.shape.length !== shape.length || found.shape.some((n, axis) => n !== shape[axis])) {
      throw new FormatError(
        found.file,
        `${quoted(found.name)} has shape [${found.shape.join(", ")}]; expert 0 has [${shape.join(", ")}]`,
      );
    }
    data.set(await found.floats(), i * size);
  }
  return gpu.keep(gpu.tensor(data, [experts.size, ...shape]));
}

async function readParameters(gpu: Gpu, source: ModelSource, config: ModelConfig): Promise<ReadWeights> {
  const { path } = source;
  const opened = await source.open();
  const { tensors } = opened;
  const out: Record<string, Tensor> = {};
  try {
    const stacks = new Map<string, Map<number, StoredTensor>>();
    const unread = new Map<string, StoredTensor>();
    for (const [name, found] of underModelNames(path, tensors, config.tieEmbeddings)) {
      const expert = expertTensor(name);
      if (expert) {
        const stack = stacks.get(expert.stack) ?? new Map<number, StoredTensor>();
        stacks.set(expert.stack, stack.set(expert.index, found));
      } else if (found.readable) out[name] = gpu.keep(gpu.tensor(await found.floats(), found.shape));
      else unread.set(name, found);
    }
    for (const [key, stack] of stacks) out[key] = await stacked(gpu, path, key, stack);
    const names = [...tensors.keys()];
    const missing = (name: string): Error => {
      const found = unread.get(name);
      if (found) return new FormatError(found.file, found.refusal);
      const some = names.slice(0, 5).join(", ");
      const held = names.length > 5 ? `${some} and ${names.length - 5} more` : some || "none";
      return new ConfigError(path, `tensor ${name} is missing (there are: ${held})`);
    };
    return { parameters: out, missing };
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
  checkConfig("loadCheckpoint", options, ["change", "components"]);
  const source = await modelSource(path);
  const { config, json } = await configFrom(source, options.change);
  const { parameters: given, missing } = await readParameters(gpu, source, config);
  try {
    const model = CausalLM.fromParameters(gpu, config, given, options.components, missing);
    const used = new Set(Object.keys(model.state()));
    const extra = Object.keys(given).filter((name) => !used.has(name));
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
