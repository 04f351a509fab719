import { pathToFileURL } from "node:url";
import type { Gpu } from "@x/kernels";
import { median } from "./run.js";

/** Milliseconds. */
export interface Timing {
  readonly min: number;
  readonly median: number;
}

/**
 * Run programs in turn, so that what else the machine does falls on all of them. A first round, in which they compile,
 * is not counted; a sample is the mean of `repeat` runs.
 */
export async function interleaved<Name extends string>(
  gpu: Gpu,
  programs: Readonly<Record<Name, () => void>>,
  rounds: number,
  repeat = 1,
): Promise<Record<Name, Timing>> {
  const once = async (program: () => void): Promise<number> => {
    const start = performance.now();
    for (let i = 0; i < repeat; i++) gpu.scope(program);
    await gpu.sync();
    return (performance.now() - start) / repeat;
  };
  const list = Object.entries(programs) as [Name, () => void][];
  const times = list.map(([name, program]) => ({ name, program, samples: [] as number[] }));
  for (const { program } of times) await once(program);
  for (let round = 0; round < rounds; round++)
    for (const { program, samples } of times) samples.push(await once(program));
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
