import type { BenchCase } from "./cases.js";
import { Holder, type Implementation } from "./implementation.js";
import type { Limits } from "../measure/limits.js";
import type { Prepared, Sampled } from "./protocol.js";
import { median, runsOfSample, WAKE_MS } from "../measure/timing.js";

/** What one implementation did in one row. */
export type Result =
  | {
      readonly status: "ok";
      /** Milliseconds of a run (microseconds of an operation where a row counts operations): median and least. */
      readonly median: number;
      readonly least: number;
      readonly samples: number;
      /** The time of each round, in which all implementations take their turn. */
      readonly rounds: readonly number[];
      readonly error: number;
    }
  | { readonly status: "wrong"; readonly error: number }
  | { readonly status: "failed"; readonly reason: string };

export interface Row {
  readonly name: string;
  readonly unit: "ms" | "us";
  readonly flops: number | undefined;
  readonly bytes: number | undefined;
  readonly results: Readonly<Record<string, Result>>;
}

export interface RunOptions {
  readonly quick: boolean;
  readonly say: (line: string) => void;
  /** Keep a GPU busy before each sample: it lowers its clocks while others take their turn. */
  readonly wake: boolean;
}

const firstLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split("\n")[0] ?? "";

interface Ready {
  readonly holder: Holder;
  readonly error: number;
  readonly count: number;
  readonly samples: number[];
}

/** Runs whose time is measured together: about this many milliseconds, so that waiting once costs little. */
const SAMPLE_MS = 40;

/** One row: every implementation is checked, then they take turns. */
export async function measureCase(
  bench: BenchCase,
  holders: readonly Holder[],
  { quick, wake }: RunOptions,
): Promise<Row> {
  const { kind, options } = bench;
  const inputs = bench.inputs();
  const results: Record<string, Result> = {};
  const ready: Ready[] = [];
  for (const holder of holders) {
    const { name } = holder.implementation;
    try {
      const prepared = await holder.ask<Prepared | undefined>({ op: "prepare", kind, options, inputs });
      if (!prepared) continue;
      const error = bench.error(prepared.outputs, inputs);
      if (!(error <= bench.tolerance)) {
        results[name] = { status: "wrong", error };
        continue;
      }
      const count = await runsOfSample(
        async (runs) => (await holder.ask<Sampled>({ op: "sample", count: runs })).milliseconds,
        SAMPLE_MS,
        2000,
      );
      ready.push({ holder, error, count, samples: [] });
    } catch (error) {
      results[name] = { status: "failed", reason: firstLine(error) };
    }
  }
  const rounds = quick ? 3 : 9;
  for (let round = 0; round < rounds; round++)
    for (const { holder, count, samples } of ready) {
      if (wake && holder.implementation.webgpu)
        await holder.ask<Sampled>({ op: "sample", count: Math.ceil((count * WAKE_MS) / SAMPLE_MS) });
      const { milliseconds } = await holder.ask<Sampled>({ op: "sample", count });
      samples.push(milliseconds / count);
    }
  const scale = bench.operations === undefined ? 1 : 1000 / bench.operations;
  for (const { holder, error, samples } of ready) {
    results[holder.implementation.name] = {
      status: "ok",
      median: median(samples) * scale,
      least: Math.min(...samples) * scale,
      samples: samples.length,
      rounds: samples.map((time) => time * scale),
      error,
    };
  }
  for (const holder of holders) await holder.ask({ op: "release" }).catch(() => undefined);
  return {
    name: bench.name,
    unit: bench.operations === undefined ? "ms" : "us",
    flops: bench.flops,
    bytes: bench.bytes,
    results,
  };
}

/** The first run in a new process whose shader cache is empty: compilation included, opening the device not. */
export async function measureCold(
  bench: BenchCase,
  implementations: readonly Implementation[],
): Promise<Row> {
  const inputs = bench.inputs();
  const results: Record<string, Result> = {};
  for (const implementation of implementations) {
    let holder: Holder | undefined;
    try {
      holder = await Holder.open(implementation, { cold: true });
      const { kind, options } = bench;
      const prepared = await holder.ask<Prepared>({ op: "prepare", kind, options, inputs });
      const error = bench.error(prepared.outputs, inputs);
      results[implementation.name] =
        error <= bench.tolerance
          ? {
              ...{ status: "ok", median: prepared.first, least: prepared.first, samples: 1 },
              ...{ rounds: [prepared.first], error },
            }
          : { status: "wrong", error };
    } catch (error) {
      results[implementation.name] = { status: "failed", reason: firstLine(error) };
    } finally {
      await holder?.close();
    }
  }
  return { name: `first ${bench.name}, cold`, unit: "ms", flops: undefined, bytes: undefined, results };
}

/** The adapter's limits, measured by this project's process. */
export async function limitsOf(holder: Holder): Promise<Limits> {
  return holder.ask<Limits>({ op: "limits" });
}
