import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { ConfigError, FormatError, type AdamW } from "@x/kernels";
import { Safetensors, writeSafetensors, type TensorData } from "@x/kernels/safetensors";
import { exists, makeFolder, readJson, remove, writeAtomically } from "../checkpoint/files.js";
import { saveCheckpoint } from "../checkpoint/save.js";
import type { CausalLM } from "../model/model.js";
import { optionOf, type TrainingOptions } from "./options.js";
import type { OptimizerState } from "./step.js";

/** What a run needs besides a model's folder to go on as if it had not stopped. */
export interface RunState {
  readonly step: number;
  readonly options: TrainingOptions;
  /** SHA-256 of the documents. */
  readonly text: string;
  readonly losses: readonly (readonly [number, number])[];
  readonly validation: readonly (readonly [number, number])[];
}

const STATE = "state.json";
const OPTIMIZER = "optimizer.safetensors";
/** Names the folder that counts; all others are left over, or not finished. */
const LATEST = "latest.json";

/**
 * What a run saves on its way, in the folder `training` of its output: the folder of the last saved step, which is a
 * whole model with its tokenizer, and a file that names it. The file is the moment at which a save counts.
 */
export class RunFolder {
  readonly #path: string;
  readonly #out: string;
  /** The folder of the last saved step. */
  latest: string | undefined;

  private constructor(out: string, latest: string | undefined) {
    this.#out = out;
    this.#path = join(out, "training");
    this.latest = latest && join(this.#path, latest);
  }

  /** Look for what an earlier process saved, and remove what it left unfinished. */
  static async open(out: string): Promise<RunFolder> {
    const path = join(out, "training");
    if (!(await exists(path))) return new RunFolder(out, undefined);
    const latest = join(path, LATEST);
    const name = (await exists(latest)) ? ((await readJson(latest)) as { folder: string }).folder : undefined;
    const folder = new RunFolder(out, name);
    await folder.#clean(name);
    return folder;
  }

  async #clean(keep: string | undefined): Promise<void> {
    for (const name of await readdir(this.#path))
      if (name !== keep && name !== LATEST) await remove(join(this.#path, name));
  }

  /** The state of the last saved step. @throws FormatError */
  async read(): Promise<{ state: RunState; optimizer: OptimizerState } | undefined> {
    if (this.latest === undefined) return undefined;
    const state = (await readJson(join(this.latest, STATE))) as RunState;
    const path = join(this.latest, OPTIMIZER);
    const file = await Safetensors.parse(path, await readFile(path));
    const moments: Record<string, Float32Array> = {};
    for (const name of file.names) {
      const values = await file.numbers(name);
      if (!(values instanceof Float32Array)) throw new FormatError(path, `tensor ${name} is not F32`);
      moments[name] = values;
    }
    return { state, optimizer: { step: state.step, moments } };
  }

  /** Save a step in place of the one before. @throws FormatError, ConfigError for values that are not finite */
  async save(
    model: CausalLM,
    json: Record<string, unknown>,
    files: Readonly<Record<string, string | Uint8Array>>,
    optimizer: AdamW,
    state: RunState,
  ): Promise<void> {
    const moments: Record<string, TensorData> = {};
    for (const [key, tensor] of Object.entries(optimizer.state())) {
      const data = (await tensor.read()) as Float32Array;
      if (!data.every(Number.isFinite))
        throw new ConfigError(
          "train",
          `a gradient of step ${state.step} is not finite (${key}); lower ${optionOf("learningRate")}`,
        );
      moments[key] = { shape: tensor.shape, data };
    }
    const name = `step-${String(state.step).padStart(7, "0")}`;
    await makeFolder(this.#path);
    const folder = join(this.#path, name);
    await saveCheckpoint(folder, model, json, {
      files: { ...files, [OPTIMIZER]: writeSafetensors(moments), [STATE]: JSON.stringify(state) },
    });
    await writeAtomically(join(this.#path, LATEST), JSON.stringify({ folder: name }));
    this.latest = folder;
    await this.#clean(name);
  }

  /**
   * Check that a run with these options can go on from a state: what a step computes must be as it was, and the number
   * of steps, and how often the run is saved and judged, may change.
   *
   * @throws ConfigError naming the option that differs
   */
  expectSame(state: RunState, now: TrainingOptions, text: string): void {
    const fail = (message: string): never => {
      throw new ConfigError("train", `${message}. Give the same to go on with it, or another --out`);
    };
    const free: readonly string[] = ["steps", "evaluateEvery", "saveEvery"];
    for (const [key, value] of Object.entries(now) as [keyof TrainingOptions, number][])
      if (!free.includes(key) && state.options[key] !== value)
        fail(`${optionOf(key)} is ${value}; the run in ${this.#out} has ${state.options[key]}`);
    if (state.text !== text) fail(`--data holds another text than the one of the run in ${this.#out}`);
    if (now.steps < state.step)
      throw new ConfigError(
        "train",
        `${optionOf("steps")} is ${now.steps}; the run in ${this.#out} is at step ${state.step} already`,
      );
  }

  /** Check that a model's configuration is the one that was saved. @throws ConfigError naming the key that differs */
  expectModel(saved: Readonly<Record<string, unknown>>, now: Readonly<Record<string, unknown>>): void {
    for (const key of new Set([...Object.keys(saved), ...Object.keys(now)])) {
      if (key === "torch_dtype" || key === "dtype") continue;
      const [a, b] = [now[key], saved[key]].map((value) =>
        value === undefined ? "absent" : JSON.stringify(value),
      );
      if (a !== b)
        throw new ConfigError(
          "train",
          `the model's ${key} is ${a}; in the run of ${this.#out} it is ${b}. ` +
            "Give the same model to go on with it, or another --out",
        );
    }
  }
}
