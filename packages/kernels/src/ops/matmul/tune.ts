import { loadTuning, saveTuning } from "#gpu";
import { VERSION } from "../../base/abi.js";
import type { Gpu } from "../../device/gpu.js";
import type { Tuning } from "../../device/tuning.js";
import { hasFixedSubgroups } from "./form.js";
import { matmul } from "./matmul.js";
import { randomUniform } from "../../random/random.js";
import type { Tensor } from "../../tensor/tensor.js";
import { checkConfig, expectFunction, expectGpu, expectRecord } from "../../base/validate.js";

/** Keeps measurements between processes: texts by name. */
export interface TuningStore {
  readonly load: (name: string) => string | undefined | Promise<string | undefined>;
  readonly save: (name: string, text: string) => void | Promise<void>;
}

const CHOICES: Readonly<Record<keyof Tuning, readonly string[]>> = {
  matmul: ["subgroup", "tiled"],
  vector: ["wide", "vector"],
};
const WARM = 2;
const RUNS = 5;

/** What a measurement depends on. */
function nameOf(gpu: Gpu): string {
  const { vendor, architecture, name, description } = gpu.info;
  const { subgroups, subgroupMinSize, subgroupMaxSize } = gpu.features;
  return [VERSION, vendor, architecture, name, description, subgroups, subgroupMinSize, subgroupMaxSize].join(
    " | ",
  );
}

function parse(text: string | undefined): Tuning | undefined {
  try {
    const value = JSON.parse(text ?? "null") as Readonly<Record<string, unknown>> | null;
    const good =
      value && Object.entries(CHOICES).every(([key, names]) => names.includes(value[key] as string));
    return good ? ({ matmul: value["matmul"], vector: value["vector"] } as Tuning) : undefined;
  } catch {
    return undefined;
  }
}

async function attempt<T>(use: () => T | Promise<T>): Promise<T | undefined> {
  try {
    return await use();
  } catch {
    return undefined;
  }
}

/** The quickest of the candidates, by the least time of a few runs in turn. */
async function quickest<T extends string>(
  gpu: Gpu,
  candidates: readonly T[],
  run: (candidate: T) => void,
): Promise<T> {
  const least = new Map<T, number>(candidates.map((c) => [c, Infinity]));
  for (let i = 0; i < WARM + RUNS; i++)
    for (const candidate of candidates) {
      await gpu.sync();
      const start = performance.now();
      gpu.scope(() => {
        run(candidate);
      });
      await gpu.sync();
      if (i >= WARM) least.set(candidate, Math.min(least.get(candidate)!, performance.now() - start));
    }
  return candidates.reduce((a, b) => (least.get(b)! < least.get(a)! ? b : a));
}

async function measure(gpu: Gpu): Promise<Tuning> {
  const matrix = (shape: readonly number[]): Tensor => gpu.keep(randomUniform(gpu, shape, { seed: 1 }));
  const [a, b, row, wide] = [matrix([512, 512]), matrix([512, 512]), matrix([1, 2048]), matrix([2048, 2048])];
  try {
    const forms = hasFixedSubgroups(gpu) ? (["subgroup", "tiled"] as const) : (["tiled"] as const);
    return {
      matmul: await quickest<Tuning["matmul"]>(gpu, forms, (form) => {
        matmul(a, b, { form });
      }),
      vector: await quickest<Tuning["vector"]>(gpu, ["wide", "vector"], (form) => {
        matmul(row, wide, { form });
      }),
    };
  } finally {
    for (const t of [a, b, row, wide]) t.dispose();
  }
}

/**
 * Measure which forms of the matrix product are quickest on this adapter, use them from now on, and keep the result:
 * the next call, also in another process, takes it from the store. Without a call, limits and features choose.
 *
 * Default store: a file in the user's cache folder; in browsers, `localStorage`. If the store cannot be read, the forms are measured again.
 *
 * @throws ConfigError, DeviceLostError
 */
export async function tune(gpu: Gpu, options: { readonly store?: TuningStore } = {}): Promise<Tuning> {
  expectGpu("tune", gpu);
  checkConfig("tune", options, ["store"]);
  const { store = { load: loadTuning, save: saveTuning } } = options;
  expectRecord("tune", "store", store);
  expectFunction("tune", "store.load", store.load);
  expectFunction("tune", "store.save", store.save);
  const name = nameOf(gpu);
  const kept = parse(await attempt(() => store.load(name)));
  const tuning = kept ?? (await measure(gpu));
  gpu.tuning = tuning;
  if (!kept) await attempt(() => store.save(name, JSON.stringify(tuning)));
  return tuning;
}
