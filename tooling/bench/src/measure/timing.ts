import { pathToFileURL } from "node:url";
import type { Gpu } from "@x/kernels";

export const median = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};

/** Milliseconds. */
export interface Timing {
  readonly min: number;
  readonly median: number;
}

/**
 * Runs whose time is measured together so that a sample takes about `milliseconds`: one wait for the device may take as
 * long as many runs. `sample` gives the milliseconds of so many runs. The first sample, in which shaders compile, is not
 * looked at.
 */
export async function runsOfSample(
  sample: (runs: number) => Promise<number>,
  milliseconds: number,
  most: number,
): Promise<number> {
  await sample(1);
  for (let runs = 1; ;) {
    const wanted = Math.round((runs * milliseconds) / (await sample(runs)));
    if (wanted <= 2 * runs || runs === most) return Math.max(1, Math.min(most, wanted));
    runs = Math.min(most, wanted, 8 * runs);
  }
}

/** Milliseconds that a sample of a suite should take. */
const SAMPLE_MS = 10;

/** Of runs before a sample on a GPU, which lowers its clocks while it waits. */
export const WAKE_MS = 120;

/**
 * Run programs in turn, so that what else the machine does falls on all of them. A first round, in which they compile,
 * is not counted; a sample is the mean of as many runs as take some milliseconds.
 */
export async function interleaved<Name extends string>(
  gpu: Gpu,
  programs: Readonly<Record<Name, () => void>>,
  rounds: number,
): Promise<Record<Name, Timing>> {
  const sample = async (program: () => void, runs: number): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < runs; i++) gpu.scope(program);
    await gpu.sync();
    return performance.now() - start;
  };
  const list = Object.entries(programs) as [Name, () => void][];
  const times = [];
  for (const [name, program] of list) {
    const runs = await runsOfSample((n) => sample(program, n), SAMPLE_MS, 500);
    times.push({ name, program, runs, samples: [] as number[] });
  }
  for (let round = 0; round < rounds; round++)
    for (const { program, runs, samples } of times) {
      if (!gpu.info.software) await sample(program, Math.ceil((runs * WAKE_MS) / SAMPLE_MS));
      samples.push((await sample(program, runs)) / runs);
    }
  return Object.fromEntries(
    times.map(({ name, samples }) => [name, { min: Math.min(...samples), median: median(samples) }]),
  ) as Record<Name, Timing>;
}

/** Milliseconds of the fastest of `rounds` runs. */
export async function fastest(gpu: Gpu, rounds: number, run: () => void): Promise<number> {
  return (await interleaved(gpu, { run }, rounds)).run.min;
}

/** Is this module what Node was started with? */
export const isMain = (url: string): boolean =>
  process.argv[1] !== undefined && url === pathToFileURL(process.argv[1]).href;
