/**
 * Norms and RoPE against a copy of as many bytes in the same process, and norms inside a training step:
 * `node tooling/bench/dist/suites/norms.js [--json FILE] [--rounds N]`. Shares are of the plain copy, four numbers an invocation.
 */
import { writeFile } from "node:fs/promises";
import { attention } from "@x/attention";
import {
  flatMain,
  AdamW,
  add,
  defineKernel,
  grid1d,
  linear,
  mean,
  mul,
  openDevice,
  randomNormal,
  silu,
  square,
  valueAndGrad,
  vjp,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import {
  batchNorm,
  fusedAddNorm,
  layerNorm,
  partialRmsNorm,
  rmsNorm,
  gemmaRmsNorm,
  scaleNorm,
} from "@x/norm";
import { RotaryEmbedding } from "@x/positional";
import { isMain, median, runsOfSample } from "../measure/timing.js";

export interface Row {
  readonly name: string;
  /** Least and median milliseconds of the rounds. */
  readonly ms: number;
  readonly median: number;
  /** Least number of bytes that must move, over the least time. */
  readonly gbPerSecond?: number;
  /** That rate over the copy's. */
  readonly shareOfCopy?: number;
  /** On a software adapter: median milliseconds of processor time, which other work on the machine changes little. */
  readonly cpu?: number;
  /** Bytes per processor time over the copy's. */
  readonly cpuShareOfCopy?: number;
  /** Time (on a software adapter that of the processor) over RMSNorm's in the same step. */
  readonly overRms?: number;
}

interface Case {
  readonly name: string;
  readonly bytes: number;
  /** Queues the work that is timed, after what it needs was made. */
  readonly prepare: () => () => void;
}

const [ROWS, WIDTH] = [4096, 1024];
const BYTES = ROWS * WIDTH * 4;

const copyKernel = defineKernel({
  name: "copy",
  bindings: { x: "read vec4<f32>", out: "write vec4<f32>" },
  params: { count: "u32" },
  wgsl: (_, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  out[i] = x[i];
}`,
});

/** The same with rows taken as the norms take them; of the copies tried here the fastest on a CPU adapter. */
const rowCopyKernel = defineKernel({
  name: "copyRows",
  bindings: { x: "read vec4<f32>", out: "write vec4<f32>" },
  params: { rows: "u32", pieces: "u32", chunk: "u32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(8)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = group.x * params.chunk;
  let stop = min(start + params.chunk, params.rows);
  for (var row = start; row < stop; row++) {
    for (var i = lane; i < params.pieces; i += 8u) {
      out[row * params.pieces + i] = x[row * params.pieces + i];
    }
  }
}`,
});

type Op = () => Tensor[];

interface Times {
  readonly wall: number[];
  readonly cpu: number[];
}

/** Milliseconds of each case in each round, the cases in turn; a sample is as many runs as take some milliseconds. */
async function measure(gpu: Gpu, cases: readonly Case[], rounds: number): Promise<Map<string, Times>> {
  const sample = async ({ prepare }: Case, count: number): Promise<{ wall: number; cpu: number }> => {
    const runs = Array.from({ length: count }, prepare);
    await gpu.sync();
    const start = performance.now();
    const before = process.cpuUsage();
    for (const run of runs) run();
    await gpu.sync();
    const used = process.cpuUsage(before);
    return { wall: performance.now() - start, cpu: (used.user + used.system) / 1000 };
  };
  const times = new Map<string, Times>(cases.map(({ name }) => [name, { wall: [], cpu: [] }]));
  const counts = new Map<Case, number>();
  for (const one of cases)
    counts.set(
      one,
      // Each prepared run of a backward holds what its forward kept.
      await runsOfSample(async (runs) => (await sample(one, runs)).wall, 5, 32),
    );
  for (let round = 0; round < rounds; round++)
    for (const one of cases) {
      const count = counts.get(one)!;
      const { wall, cpu } = await sample(one, count);
      times.get(one.name)!.wall.push(wall / count);
      times.get(one.name)!.cpu.push(cpu / count);
    }
  return times;
}

const least = (list: readonly number[]): number => Math.min(...list);

function kernelCases(gpu: Gpu): Case[] {
  const x = randomNormal(gpu, [ROWS, WIDTH], { seed: 1 });
  const y = randomNormal(gpu, [ROWS, WIDTH], { seed: 2 });
  const out = gpu.empty([ROWS, WIDTH]);
  const [weight, bias] = [gpu.full([WIDTH], 1), gpu.zeros([WIDTH])];
  const g = gpu.full([1], 32);
  const stats = { runningMean: gpu.zeros([WIDTH]), runningVar: gpu.full([WIDTH], 1) };
  const count = x.size / 4;
  const discard = (tensors: readonly Tensor[]): void => {
    for (const t of tensors) t.dispose();
  };
  const forward = (name: string, units: number, op: Op): Case => ({
    name: `${name} forward`,
    bytes: units * BYTES,
    prepare: () => () => {
      gpu.scope(() => {
        discard(op());
      });
    },
  });
  const backward = (name: string, units: number, op: Op, wrt: readonly Tensor[]): Case => ({
    name: `${name} backward`,
    bytes: units * BYTES,
    prepare: () => {
      const run = vjp(op, wrt);
      return () => {
        discard(run.pullback(run.outputs.map(() => y)));
        discard(run.outputs);
      };
    },
  });
  const both = (name: string, op: Op, wrt: readonly Tensor[]): Case[] => [
    forward(name, 2, op),
    backward(name, 3, op, wrt),
  ];
  const fused: Op = () => {
    const r = fusedAddNorm(x, y, { kind: "rms", weight });
    return [r.out, r.residual];
  };
  const batch =
    (training: boolean): Op =>
    () => {
      const r = batchNorm(x, { training, ...stats, weight, bias });
      return [r.out];
    };
  const rope = new RotaryEmbedding({ headDim: 64 });
  // As many numbers as x: 12 query heads and 4 key heads of 4096 tokens.
  const [q, k] = [12, 4].map((heads) => randomNormal(gpu, [1, heads, ROWS, WIDTH / 16], { seed: heads })) as [
    Tensor,
    Tensor,
  ];
  const turn: Op = () => rope.applyQK(q, k);
  return [
    {
      name: "copy",
      bytes: 2 * BYTES,
      prepare: () => () => {
        gpu.run(copyKernel, {
          bindings: { x, out },
          params: { count },
          workgroups: grid1d(Math.ceil(count / 64)),
        });
      },
    },
    {
      name: "copy, a group of rows at a time",
      bytes: 2 * BYTES,
      prepare: () => () => {
        const chunk = ROWS / 64;
        gpu.run(rowCopyKernel, {
          bindings: { x, out },
          params: { rows: ROWS, pieces: WIDTH / 4, chunk },
          workgroups: grid1d(ROWS / chunk),
        });
      },
    },
    ...both("RMSNorm", () => [rmsNorm(x, { weight })], [x, weight]),
    ...both("LayerNorm", () => [layerNorm(x, { weight, bias })], [x, weight, bias]),
    ...both("pRMSNorm", () => [partialRmsNorm(x, { weight, p: 0.0625 })], [x, weight]),
    ...both("RMSNorm, 1 + weight", () => [gemmaRmsNorm(x, { weight })], [x, weight]),
    ...both("ScaleNorm", () => [scaleNorm(x, { g })], [x, g]),
    forward("fused add and RMSNorm", 4, fused),
    backward("fused add and RMSNorm", 4, fused, [x, y, weight]),
    forward("BatchNorm, training", 3, batch(true)),
    backward("BatchNorm, training", 5, batch(true), [x, weight, bias]),
    forward("BatchNorm, inference", 2, batch(false)),
    forward("RoPE of q and k", 2, turn),
    {
      name: "RoPE of q and k backward",
      bytes: 2 * BYTES,
      prepare: () => {
        const run = vjp(turn, [q, k]);
        return () => {
          discard(run.pullback([q, k]));
          discard(run.outputs);
        };
      },
    },
  ];
}

/** A training step of a decoder of two pre-norm layers (dim 256, 8 heads, SwiGLU 688) on 256 tokens. */
function stepCase(gpu: Gpu, name: string, norm: (x: Tensor, weight: Tensor, bias: Tensor) => Tensor): Case {
  const [dim, heads, hidden, seq] = [256, 8, 688, 256];
  const parameters: Record<string, Tensor> = {};
  const matrix = (at: string, rows: number, columns: number): void => {
    parameters[at] = gpu.keep(
      gpu.scope(() => mul(randomNormal(gpu, [rows, columns], { seed: at.length }), 0.02)),
    );
  };
  for (const layer of [0, 1]) {
    for (const at of ["q", "k", "v", "o"]) matrix(`${layer}.${at}`, dim, dim);
    matrix(`${layer}.gate`, hidden, dim);
    matrix(`${layer}.up`, hidden, dim);
    matrix(`${layer}.down`, dim, hidden);
    for (const at of [0, 1]) {
      parameters[`${layer}.norm${at}`] = gpu.keep(gpu.full([dim], 1));
      parameters[`${layer}.bias${at}`] = gpu.keep(gpu.zeros([dim]));
    }
  }
  const x = gpu.keep(randomNormal(gpu, [1, seq, dim], { seed: 5 }));
  const optimizer = new AdamW(parameters, { learningRate: 1e-4 });
  const p = (at: string): Tensor => parameters[at]!;
  const loss = (): Tensor => {
    let y = x;
    for (const layer of [0, 1]) {
      const a = norm(y, p(`${layer}.norm0`), p(`${layer}.bias0`));
      const [q, k, v] = ["q", "k", "v"].map((at) =>
        linear(a, p(`${layer}.${at}`)).reshape([1, seq, heads, dim / heads]),
      ) as [Tensor, Tensor, Tensor];
      const mixed = attention(q, k, v, { layout: "bshd", causal: true }).reshape([1, seq, dim]);
      y = add(y, linear(mixed, p(`${layer}.o`)));
      const b = norm(y, p(`${layer}.norm1`), p(`${layer}.bias1`));
      y = add(
        y,
        linear(mul(silu(linear(b, p(`${layer}.gate`))), linear(b, p(`${layer}.up`))), p(`${layer}.down`)),
      );
    }
    return mean(square(y));
  };
  return {
    name,
    bytes: 0,
    prepare: () => () => {
      gpu.scope(() => {
        const { grads } = valueAndGrad(loss, parameters);
        optimizer.step(grads);
      });
    },
  };
}

function stepCases(gpu: Gpu): Case[] {
  const dim = 256;
  const stats = { runningMean: gpu.zeros([dim]), runningVar: gpu.full([dim], 1) };
  return [
    stepCase(gpu, "step with RMSNorm", (x, w) => rmsNorm(x, { weight: w })),
    stepCase(gpu, "step with LayerNorm", (x, w, bias) => layerNorm(x, { weight: w, bias })),
    stepCase(gpu, "step with pRMSNorm", (x, w) => partialRmsNorm(x, { weight: w, p: 0.0625 })),
    stepCase(
      gpu,
      "step with BatchNorm",
      (x, weight, bias) => batchNorm(x, { training: true, ...stats, weight, bias }).out,
    ),
  ];
}

/** All rows; what is timed together runs in turn. */
export async function normBench(gpu: Gpu, { rounds = 11 }: { rounds?: number } = {}): Promise<Row[]> {
  const rows: Row[] = [];
  const software = gpu.info.software;
  const row = (name: string, { wall, cpu }: Times, more: Partial<Row>): void => {
    rows.push({
      name,
      ms: least(wall),
      median: median(wall),
      ...(software ? { cpu: median(cpu) } : {}),
      ...more,
    });
  };
  const cases = kernelCases(gpu);
  const times = await measure(gpu, cases, rounds);
  const copy = times.get("copy")!;
  for (const { name, bytes } of cases) {
    const own = times.get(name)!;
    const units = bytes / (2 * BYTES);
    row(name, own, {
      gbPerSecond: bytes / least(own.wall) / 1e6,
      shareOfCopy: (units * least(copy.wall)) / least(own.wall),
      ...(software ? { cpuShareOfCopy: (units * median(copy.cpu)) / median(own.cpu) } : {}),
    });
  }
  const steps = stepCases(gpu);
  const stepTimes = await measure(gpu, steps, rounds);
  const timeOf = (name: string): number => {
    const { wall, cpu } = stepTimes.get(name)!;
    return software ? median(cpu) : least(wall);
  };
  for (const { name } of steps)
    row(name, stepTimes.get(name)!, { overRms: timeOf(name) / timeOf("step with RMSNorm") });
  return rows;
}

/** The rows as a table of plain text. */
export function showNormRows(rows: readonly Row[]): string {
  const line = (cells: readonly string[]): string =>
    cells.map((cell, i) => (i === 0 ? cell.padEnd(34) : cell.padStart(12))).join("");
  const fixed = (x: number | undefined, digits: number): string => (x === undefined ? "" : x.toFixed(digits));
  const percent = (x: number | undefined): string => (x === undefined ? "" : `${(100 * x).toFixed(0)} %`);
  return [
    line(["", "least ms", "median ms", "GB/s", "of copy", "cpu ms", "of copy", "of RMSNorm"]),
    ...rows.map((r) =>
      line([
        r.name,
        fixed(r.ms, 2),
        fixed(r.median, 2),
        fixed(r.gbPerSecond, 2),
        percent(r.shareOfCopy),
        fixed(r.cpu, 2),
        percent(r.cpuShareOfCopy),
        fixed(r.overRms, 3),
      ]),
    ),
  ].join("\n");
}

async function main(args: readonly string[]): Promise<void> {
  const after = (flag: string): string | undefined => {
    const at = args.indexOf(flag);
    return at < 0 ? undefined : args[at + 1];
  };
  const gpu = await openDevice();
  const rounds = Number(after("--rounds") ?? 11);
  const rows = await normBench(gpu, { rounds });
  console.log(`${gpu.info.name}\n${showNormRows(rows)}`);
  const json = after("--json");
  if (json !== undefined)
    await writeFile(
      json,
      `${JSON.stringify({ adapter: gpu.info.name, shape: [ROWS, WIDTH], rounds, rows }, null, 1)}\n`,
    );
  gpu.destroy();
}

if (isMain(import.meta.url)) await main(process.argv.slice(2));
