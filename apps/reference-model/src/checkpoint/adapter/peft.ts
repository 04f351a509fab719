import { join } from "node:path";
import { FormatError } from "@x/kernels";
import { Safetensors, type TensorEntry } from "@x/kernels/safetensors";
import { fileSource } from "../byte_source.js";
import { exists, readJson } from "../files.js";
import { quoted } from "../stored.js";
import type { Laid } from "../names.js";
import { peftConfig, type PeftConfig } from "./peft_config.js";

/** The change scale b a of one module's weight [out, in]. */
export interface Factors {
  readonly module: string;
  /** [rank, in] */
  readonly a: Laid;
  /** [out, rank] */
  readonly b: Laid;
  readonly scale: number;
}

/** An adapter that was read: changes of low rank, and tensors that it gives whole, by their names in the model's folder. */
export interface Adapter {
  readonly path: string;
  readonly config: PeftConfig;
  readonly factors: readonly Factors[];
  readonly whole: ReadonlyMap<string, Laid>;
}

const PREFIX = "base_model.model.";
const FACTOR = /^(.+)\.lora_(embedding_)?([AB])(?:\.weight)?$/;
const WEIGHTS: readonly string[] = ["F64", "F32", "F16", "BF16"];

const transposed = ({ shape, data }: Laid): Laid => {
  const [rows, columns] = shape as [number, number];
  const out = new Float32Array(data.length);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j]!;
  return { shape: [columns, rows], data: out };
};

/** The two factors of a module, as they are found. */
interface Pair {
  readonly embedding: boolean;
  a?: Laid;
  b?: Laid;
}

/** Factors as those of a weight [out, in]; an embedding [tokens, dim] has the transpose of b a. */
function factorsOf(file: string, config: PeftConfig, module: string, { a, b, embedding }: Pair): Factors {
  const fail = (message: string): never => {
    throw new FormatError(file, `module ${JSON.stringify(module)} ${message}`);
  };
  if (!a || !b) return fail(`has lora_${a ? "A" : "B"} without lora_${a ? "B" : "A"}`);
  const rank = config.rankOf(module);
  if (a.shape.length !== 2 || b.shape.length !== 2 || a.shape[0] !== rank || b.shape[1] !== rank)
    return fail(
      `has lora_A [${a.shape.join(", ")}] and lora_B [${b.shape.join(", ")}]; they must be [${rank}, in] and [out, ${rank}]`,
    );
  if (config.targets(module) === false)
    return fail("has factors; the configuration does not have it among the modules that change");
  const scale = config.scaleOf(module);
  return embedding ? { module, a: transposed(b), b: transposed(a), scale } : { module, a, b, scale };
}

/** The name, in the model's folder, of a tensor that is given whole. @throws FormatError for one that the configuration does not allow */
function wholeName(file: string, config: PeftConfig, given: string): string {
  const name = given.replace(".base_layer.", ".").replace(/\.modules_to_save(?:\.default)?\./, ".");
  const module = name.slice(0, name.lastIndexOf("."));
  const saved = config.saved.some((one) => module === one || `.${module}.`.includes(`.${one}.`));
  const bias = name.endsWith(".bias") && config.bias !== "none";
  // An embedding that was resized is saved beside its factors.
  if (!saved && !bias && !given.endsWith(".base_layer.weight"))
    throw new FormatError(
      file,
      `${quoted(given)} is not a factor (lora_A, lora_B), and modules_to_save and bias do not speak of it`,
    );
  return name;
}

async function open(path: string): Promise<{ file: string; tensors: ReadonlyMap<string, Laid> }> {
  const file = join(path, "adapter_model.safetensors");
  if (!(await exists(file)) && (await exists(join(path, "adapter_model.bin"))))
    throw new FormatError(path, "holds adapter_model.bin, a pickle; adapter_model.safetensors is read");
  const source = await fileSource(file);
  try {
    const stored = await Safetensors.open(file, source);
    const tensors = new Map<string, Laid>();
    for (const name of stored.names) {
      const { dtype, shape }: TensorEntry = stored.entry(name);
      if (!WEIGHTS.includes(dtype))
        throw new FormatError(file, `${quoted(name)} is ${dtype}; weights are F32, F16 or BF16`);
      tensors.set(name, { shape, data: (await stored.numbers(name)) as Float32Array });
    }
    return { file, tensors };
  } finally {
    await source.close();
  }
}

/**
 * Reads a PEFT folder: adapter_config.json and adapter_model.safetensors of a LoRA.
 *
 * @throws ConfigError, FormatError naming what is missing, has another shape, or is not read
 */
export async function readAdapter(path: string): Promise<Adapter> {
  const configFile = join(path, "adapter_config.json");
  const config = peftConfig(configFile, await readJson(configFile));
  const { file, tensors } = await open(path);
  const pairs = new Map<string, Pair>();
  const whole = new Map<string, Laid>();
  for (const [given, tensor] of tensors) {
    const name = given.startsWith(PREFIX) ? given.slice(PREFIX.length) : given;
    const [, module, embedding, which] = FACTOR.exec(name) ?? [];
    if (module === undefined) {
      whole.set(wholeName(file, config, name), tensor);
      continue;
    }
    const pair: Pair = pairs.get(module) ?? { embedding: embedding !== undefined };
    pair[which === "A" ? "a" : "b"] = tensor;
    pairs.set(module, pair);
  }
  const factors = [...pairs].map(([module, pair]) => factorsOf(file, config, module, pair));
  if (factors.length === 0 && whole.size === 0) throw new FormatError(file, "holds no tensors of an adapter");
  return { path, config, factors, whole };
}
