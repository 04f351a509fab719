import { groupMain, defineKernel, grid1d, type Gpu, type Tensor } from "@x/kernels";

/** The best rates that an adapter shows over several kernel forms, and each form's. */
export interface Limits {
  /** 10^9 floating-point operations a second, two for a multiply-add. */
  readonly fma: number;
  /** 10^9 loads of 4 bytes a second, from a buffer that fits caches. */
  readonly load: number;
  /** 10^9 bytes a second, read and written bytes added. */
  readonly copy: number;
  readonly forms: Readonly<Record<string, number>>;
}

const ROUNDS = 5;
const FMA_STEPS = 512;
const FMA_GROUPS = 256;

/** `chains` independent accumulators of `type` per thread, FMA_STEPS multiply-adds each. */
const fmaKernel = defineKernel({
  name: "limitFma",
  bindings: { out: "write f32" },
  params: { scale: "f32", steps: "u32" },
  wgsl: ({ type, chains }: { readonly type: string; readonly chains: number }) => {
    const list = Array.from({ length: chains }, (_, i) => i);
    return /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let x = ${type}(params.scale);
  ${list.map((i) => `var a${i} = ${type}(f32(id.x + ${i}u));`).join("\n  ")}
  for (var s = 0u; s < params.steps; s++) {
    ${list.map((i) => `a${i} = fma(a${i}, x, x);`).join("\n    ")}
  }
  let sum = ${list.map((i) => `a${i}`).join(" + ")};
  out[id.x] = ${type === "f32" ? "sum" : "dot(sum, vec4f(1.0))"};
}`;
  },
});

const LOAD_STEPS = 256;

/** Loads only: contiguous over the threads, the same for all, or from workgroup memory. */
const loadKernel = defineKernel({
  name: "limitLoad",
  bindings: (v: { readonly form: "contiguous" | "uniform" | "workgroup"; readonly type: string }) => ({
    x: `read ${v.type}`,
    out: "write f32",
  }),
  params: { steps: "u32", mask: "u32" },
  wgsl: ({ form, type }) => {
    const index = (s: string): string =>
      form === "contiguous"
        ? `(id.x + ${s} * 64u) & params.mask`
        : form === "uniform"
          ? `(${s}) & params.mask`
          : `(thread + ${s}) & 255u`;
    const source = form === "workgroup" ? "tile" : "x";
    return /* wgsl */ `
var<workgroup> tile: array<${type}, 256>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(local_invocation_index) thread: u32) {
  ${form === "workgroup" ? "for (var i = thread; i < 256u; i += 64u) { tile[i] = x[i]; }\n  workgroupBarrier();" : ""}
  var a = ${type}(0.0);
  var b = ${type}(0.0);
  for (var s = 0u; s < params.steps; s += 2u) {
    a += ${source}[${index("s")}];
    b += ${source}[${index("s + 1u")}];
  }
  out[id.x] = ${type === "f32" ? "a + b" : "dot(a + b, vec4f(1.0))"};
}`;
  },
});

const copyKernel = defineKernel({
  name: "limitCopy",
  bindings: (v: { type: string; each: number }) => ({
    x: `read ${v.type}`,
    out: `write ${v.type}`,
  }),
  params: { count: "u32" },
  wgsl: ({ each }) => /* wgsl */ `
${groupMain("group_index")}
  let first = group_index * ${64 * each}u + lane;
  ${Array.from({ length: each }, (_, i) => `if (first + ${i * 64}u < params.count) { out[first + ${i * 64}u] = x[first + ${i * 64}u]; }`).join("\n  ")}
}`,
});

/** Best of some rounds, in seconds. */
async function best(gpu: Gpu, run: () => void): Promise<number> {
  run();
  await gpu.sync();
  let seconds = Infinity;
  for (let i = 0; i < ROUNDS; i++) {
    const start = performance.now();
    run();
    await gpu.sync();
    seconds = Math.min(seconds, (performance.now() - start) / 1000);
  }
  return seconds;
}

/** Work is doubled until a run takes 20 ms, so that starting it does not count. */
async function rate(gpu: Gpu, run: (steps: number) => void, work: number, steps: number): Promise<number> {
  for (;;) {
    const seconds = await best(gpu, () => {
      run(steps);
    });
    if (seconds > 0.02 || steps > 1 << 20) return (work * steps) / seconds / 1e9;
    steps *= 2;
  }
}

/** Measure an adapter's multiply-add rate, load rate and copy bandwidth. */
export async function measureLimits(gpu: Gpu): Promise<Limits> {
  const forms: Record<string, number> = {};
  const out = gpu.keep(gpu.zeros([FMA_GROUPS * 64]));
  const x: Tensor = gpu.keep(gpu.full([65536], 0.5));
  for (const type of ["f32", "vec4f"])
    for (const chains of [4, 8, 16]) {
      const run = (steps: number): void => {
        gpu.run(fmaKernel, {
          variant: { type, chains },
          bindings: { out },
          params: { scale: 0.5, steps },
          workgroups: [FMA_GROUPS],
        });
      };
      const work = 2 * FMA_GROUPS * 64 * chains * (type === "f32" ? 1 : 4);
      forms[`fma ${type} x${chains}`] = await rate(gpu, run, work, FMA_STEPS);
    }
  for (const form of ["contiguous", "uniform", "workgroup"] as const)
    for (const type of ["f32", "vec4<f32>"]) {
      const run = (steps: number): void => {
        gpu.run(loadKernel, {
          variant: { form, type },
          bindings: { x, out },
          params: { steps, mask: 4095 },
          workgroups: [FMA_GROUPS],
        });
      };
      const work = FMA_GROUPS * 64 * (type === "f32" ? 1 : 4);
      forms[`load ${form} ${type}`] = await rate(gpu, run, work, LOAD_STEPS);
    }
  const size = 1 << 24;
  const [from, to] = [gpu.keep(gpu.zeros([size])), gpu.keep(gpu.zeros([size]))];
  for (const type of ["f32", "vec4<f32>"])
    for (const each of [1, 4]) {
      const count = type === "f32" ? size : size / 4;
      const seconds = await best(gpu, () => {
        gpu.run(copyKernel, {
          variant: { type, each },
          bindings: { x: from, out: to },
          params: { count },
          workgroups: grid1d(Math.ceil(count / (64 * each))),
        });
      });
      forms[`copy ${type} x${each}`] = (8 * size) / seconds / 1e9;
    }
  forms["copy command"] =
    (8 * size) /
    (await best(gpu, () => {
      gpu.copy(from, to);
    })) /
    1e9;
  for (const t of [out, x, from, to]) t.dispose();
  gpu.trim();
  const largest = (prefix: string): number =>
    Math.max(...Object.entries(forms).flatMap(([name, value]) => (name.startsWith(prefix) ? [value] : [])));
  return { fma: largest("fma"), load: largest("load"), copy: largest("copy"), forms };
}
