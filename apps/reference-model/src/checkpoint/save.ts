import { checkConfig, ConfigError } from "@x/kernels";
import { writeSafetensors, type TensorData } from "@x/kernels/safetensors";
import type { CausalLM } from "../model/model.js";
import { publish, type WriteInto } from "./files.js";
import { jsonText } from "./json.js";
import { tensorNames, type CheckpointNames } from "../families/index.js";
import { BESIDE, joined, unarranged, type Laid } from "./names.js";

/** A model's parameters on the host under the names of its family's checkpoints, experts one by one. */
async function hostParameters(
  model: Pick<CausalLM, "state">,
  names: CheckpointNames,
): Promise<Record<string, TensorData>> {
  const state = model.state();
  const read = async (name: string): Promise<Laid> => ({
    shape: state[name]!.shape,
    data: (await state[name]!.read()) as Float32Array,
  });
  const out: Record<string, TensorData> = {};
  for (const { name, targets, rows, axis, expertName, ...layout } of names.writings(Object.keys(state))) {
    const parts = await Promise.all(targets.map(read));
    const { shape, data } = unarranged(rows ? joined(parts, rows, axis) : parts[0]!, layout);
    if (!expertName) {
      out[name] = { shape, data: data as Float32Array };
      continue;
    }
    const [experts, ...each] = shape as [number, ...number[]];
    const size = data.length / experts;
    for (let i = 0; i < experts; i++)
      out[expertName(i)] = { shape: each, data: data.slice(i * size, (i + 1) * size) as Float32Array };
  }
  return out;
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
  readonly files?: Readonly<Record<string, string | Uint8Array>>;
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

const HIGHEST_F16 = 65504;

/** @throws ConfigError where rounding to f16 makes a finite weight infinite */
function expectInRange(tensors: Readonly<Record<string, TensorData>>): void {
  for (const [name, { data }] of Object.entries(tensors)) {
    // Half of the distance to the next number above still rounds down.
    const worst = data.find((x) => Number.isFinite(x) && Math.abs(x) >= HIGHEST_F16 + 16);
    if (worst !== undefined)
      throw new ConfigError(
        "saveCheckpoint",
        `${name} holds ${worst}; f16 holds at most ${HIGHEST_F16}: take bf16 or f32`,
      );
  }
}

/** Files of weights in any layout. */
export const WEIGHTS = /^model(-\d+-of-\d+)?\.safetensors$|^model\.safetensors\.index\.json$/;

/**
 * Write a model folder: config.json, model.safetensors or shards with their index, and other files. All of them are
 * there afterwards, or the folder is as it was; weights of another layout and a tokenizer's files that are not among
 * the new ones go.
 *
 * @throws FormatError for what cannot be written, ConfigError
 */
export async function saveCheckpoint(
  folder: string,
  model: Pick<CausalLM, "state">,
  json: Record<string, unknown>,
  options: SaveOptions = {},
): Promise<void> {
  checkConfig("saveCheckpoint", options, ["dtype", "maxShardBytes", "files"]);
  const { dtype = "f32", maxShardBytes = Infinity, files } = options;
  const { dtype: stored, name: torchDtype, bytes } = CHECKPOINT_DTYPES[dtype];
  const tensors = await hostParameters(model, tensorNames(json));
  if (dtype === "f16") expectInRange(tensors);
  const parts = shards(tensors, bytes, maxShardBytes);
  const fileOf = (i: number): string =>
    parts.length === 1
      ? "model.safetensors"
      : `model-${String(i + 1).padStart(5, "0")}-of-${String(parts.length).padStart(5, "0")}.safetensors`;
  // What is written is not in the blocks that the configuration of a quantised folder speaks of.
  const plain = { ...json };
  delete plain["quantization_config"];
  const own = "dtype" in json ? { ...plain, dtype: torchDtype } : { ...plain, torch_dtype: torchDtype };
  const fill = async (write: WriteInto): Promise<void> => {
    const weightMap: Record<string, string> = {};
    for (const [i, names] of parts.entries()) {
      const part = Object.fromEntries(names.map((name) => [name, { ...tensors[name]!, dtype: stored }]));
      for (const name of names) weightMap[name] = fileOf(i);
      await write(fileOf(i), writeSafetensors(part, { format: "pt" }));
    }
    if (parts.length > 1) {
      const total = Object.values(tensors).reduce((n, { data }) => n + data.length * bytes, 0);
      const text = JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }, null, 2);
      await write("model.safetensors.index.json", `${text}\n`);
    }
    await write("config.json", `${jsonText(own)}\n`);
    for (const [name, content] of Object.entries(files ?? {})) await write(name, content);
  };
  await publish(folder, fill, (name) => WEIGHTS.test(name) || (files !== undefined && BESIDE.test(name)));
}
