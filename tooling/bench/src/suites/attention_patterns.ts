#!/usr/bin/env node
/**
 * Patterns: time of sparse attention against full causal attention, beside the share of blocks visited; memory of a
 * long sequence, forward and backward; time of one decoding step against the length of the context.
 *
 *     node tooling/bench/dist/suites/attention_patterns.js [--lengths 4096] [--memory 8192] [--contexts 1024,4096,16384] [--out FILE]
 */
import { writeFileSync } from "node:fs";
import {
  attention,
  bigBird,
  causal,
  dilatedWindow,
  full,
  globalTokens,
  pattern,
  slidingWindow,
  type Pattern,
} from "@x/attention";
import { openDevice, randomNormal, vjp, type Gpu, type Tensor } from "@x/kernels";
import { Command } from "commander";
import { interleaved, isMain } from "../measure/timing.js";

export interface PatternRow {
  readonly pattern: string;
  readonly length: number;
  /** Share of all blocks of the square that the pattern visits. */
  readonly share: number;
  readonly milliseconds: number;
  /** Time by the time of full attention over the same length, and that by the share: 1 is ideal. */
  readonly timeShare: number;
  readonly ratio: number;
}

export interface MemoryRow {
  readonly length: number;
  /** Bytes beside inputs, outputs and gradients; one matrix of scores would take `matrixBytes`. */
  readonly extraBytes: number;
  readonly matrixBytes: number;
}

export interface DecodeRow {
  readonly context: number;
  /** Of 8 query heads. */
  readonly keyHeads: number;
  readonly milliseconds: number;
  /** The same with the keys in one piece, as the forward of a gradient has them. */
  readonly wholeMilliseconds: number;
}

export interface PatternReport {
  readonly adapter: string;
  readonly patterns: readonly PatternRow[];
  readonly memory: readonly MemoryRow[];
  readonly decode: readonly DecodeRow[];
}

const PATTERNS: Readonly<Record<string, Pattern>> = {
  full: full(),
  causal: causal(),
  "window of 256": pattern({ kind: "slidingWindow", left: 255, right: 0 }),
  "dilated by 4": dilatedWindow(64, 64, 4),
  Longformer: slidingWindow(128).or(globalTokens(4)),
  BigBird: bigBird({ block: 64, randomBlocks: 3, seed: 1 }),
};

const inputs = (gpu: Gpu, heads: number, rows: readonly number[], dim: number): Tensor[] =>
  rows.map((n, i) => gpu.keep(randomNormal(gpu, [1, heads, n, dim], { seed: i + 1 })));

async function patternRows(gpu: Gpu, length: number, repeat: number): Promise<PatternRow[]> {
  const [q, k, v] = inputs(gpu, 2, [length, length, length], 64) as [Tensor, Tensor, Tensor];
  const names = Object.keys(PATTERNS);
  const times = await interleaved(
    gpu,
    Object.fromEntries(
      names.map((name) => [name, () => void attention(q, k, v, { pattern: PATTERNS[name] })]),
    ),
    repeat,
  );
  const best = names.map((name) => times[name]!.min);
  const rows = names.map((name, n): PatternRow => {
    // A dilated window is visited in the order of its residues, where it is a plain window over a shorter sequence.
    const share =
      name === "dilated by 4"
        ? slidingWindow(64).share({ heads: 1, queries: length / 4 }) / 4
        : PATTERNS[name]!.share({ heads: 2, queries: length });
    const timeShare = best[n]! / best[0]!;
    return { pattern: name, length, share, milliseconds: best[n]!, timeShare, ratio: timeShare / share };
  });
  for (const t of [q, k, v]) t.dispose();
  return rows;
}

async function memoryRow(gpu: Gpu, length: number): Promise<MemoryRow> {
  const [q, k, v] = inputs(gpu, 1, [length, length, length], 32) as [Tensor, Tensor, Tensor];
  gpu.trim();
  const before = gpu.memory().liveBytes;
  const run = vjp(() => [attention(q, k, v, { pattern: PATTERNS["BigBird"] })], [q, k, v]);
  const gradients = run.pullback(run.outputs);
  await gpu.sync();
  const results = [...run.outputs, ...gradients];
  // What was made on the way waits in the pool for its next use.
  const memory = gpu.memory();
  const extraBytes =
    memory.liveBytes + memory.pooledBytes - before - results.reduce((n, t) => n + t.byteLength, 0);
  for (const t of [q, k, v, ...results]) t.dispose();
  return { length, extraBytes, matrixBytes: 4 * length * length };
}

async function decodeRow(gpu: Gpu, context: number, keyHeads: number, repeat: number): Promise<DecodeRow> {
  const [q] = inputs(gpu, 8, [1], 64) as [Tensor];
  const [k, v] = inputs(gpu, keyHeads, [context, context], 64) as [Tensor, Tensor];
  const run = (): Tensor => attention(q, k, v, { causal: true });
  const whole = (): void => {
    vjp(() => [run()], [q]).dispose();
  };
  const times = await interleaved(gpu, { run, whole }, 3 * repeat);
  for (const t of [q, k, v]) t.dispose();
  return { context, keyHeads, milliseconds: times.run.min, wholeMilliseconds: times.whole.min };
}

export async function benchPatterns(
  gpu: Gpu,
  options: {
    readonly lengths: readonly number[];
    readonly memory: readonly number[];
    readonly contexts: readonly number[];
    readonly repeat: number;
  },
): Promise<PatternReport> {
  const patterns: PatternRow[] = [];
  for (const length of options.lengths) patterns.push(...(await patternRows(gpu, length, options.repeat)));
  const memory: MemoryRow[] = [];
  for (const length of options.memory) memory.push(await memoryRow(gpu, length));
  const decode: DecodeRow[] = [];
  for (const keyHeads of [8, 1])
    for (const context of options.contexts)
      decode.push(await decodeRow(gpu, context, keyHeads, options.repeat));
  return { adapter: gpu.info.name, patterns, memory, decode };
}

/** The report as text. */
export function showPatterns(report: PatternReport): string {
  const lines: string[] = [];
  lines.push(report.adapter);
  lines.push("pattern          length  blocks    time ms  of full   time share / block share");
  for (const r of report.patterns)
    lines.push(
      `${r.pattern.padEnd(16)} ${String(r.length).padStart(6)}  ${(100 * r.share).toFixed(1).padStart(5)}%  ${r.milliseconds.toFixed(1).padStart(8)}  ${(100 * r.timeShare).toFixed(1).padStart(6)}%  ${r.ratio.toFixed(2)}`,
    );
  for (const r of report.memory)
    lines.push(
      `forward and backward at ${r.length}: ${(r.extraBytes / 1024).toFixed(0)} KiB beside inputs and results; a matrix takes ${(r.matrixBytes / 1024).toFixed(0)} KiB`,
    );
  for (const r of report.decode)
    lines.push(
      `one query over ${r.context} keys, ${r.keyHeads} key heads: ${r.milliseconds.toFixed(2)} ms; keys in one piece: ${r.wholeMilliseconds.toFixed(2)} ms`,
    );
  return lines.join("\n");
}

const list = (text: string): number[] => text.split(",").filter(Boolean).map(Number);

async function main(): Promise<void> {
  const program = new Command("attention_patterns")
    .description("Time of sparse attention beside the share of blocks it visits, memory, decoding.")
    .option("--lengths <list>", "sequence lengths", list, [4096])
    .option("--memory <list>", "lengths at which memory is measured", list, [8192])
    .option("--contexts <list>", "context lengths of a decoding step", list, [1024, 4096, 16384])
    .option("--repeat <n>", "repetitions, the fastest counts", Number, 3)
    .option("--out <file>", "write the report as JSON");
  program.parse();
  const options = program.opts<{
    lengths: number[];
    memory: number[];
    contexts: number[];
    repeat: number;
    out?: string;
  }>();
  const gpu = await openDevice();
  try {
    const report = await benchPatterns(gpu, options);
    console.log(showPatterns(report));
    if (options.out) writeFileSync(options.out, `${JSON.stringify(report, null, 1)}\n`);
  } finally {
    gpu.destroy();
  }
}

if (isMain(import.meta.url)) await main();
