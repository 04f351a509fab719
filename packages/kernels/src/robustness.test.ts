import { describe, expect, it } from "vitest";
import * as arithmetic from "./ops/arithmetic.js";
import * as ops from "./ops/index.js";
import * as random from "./random/index.js";
import {
  AdamW,
  cast,
  crossEntropy,
  DeviceLostError,
  e,
  elementwise,
  embedding,
  gather,
  groupBy,
  linear,
  linearCrossEntropy,
  openDevice,
  OutOfMemoryError,
  randomNormal,
  scatterAdd,
  silu,
  takeAlongLast,
  valueAndGrad,
  vjp,
  type Gpu,
  type Tensor,
} from "./index.js";
import { useGpu } from "./test-support.js";

const device = useGpu();

/** Made for one op: what it is differentiated by, and what it only reads. */
interface Made {
  readonly wrt: Tensor[];
  readonly run: () => Tensor[];
}
const f = (gpu: Gpu, shape: number[], seed = 1): Tensor => randomNormal(gpu, shape, { seed });
const ids = (gpu: Gpu, values: number[], shape = [values.length]): Tensor => gpu.tensor(values, shape, "i32");

const unary =
  (op: (x: Tensor) => Tensor | Tensor[], shape = [5, 8]) =>
  (gpu: Gpu): Made => {
    const x = f(gpu, shape);
    return { wrt: [x], run: () => [op(x)].flat() };
  };
const binary =
  (op: (a: Tensor, b: Tensor) => Tensor, b = [8]) =>
  (gpu: Gpu): Made => {
    const [x, y] = [f(gpu, [5, 8]), f(gpu, b, 2)];
    return { wrt: [x, y], run: () => [op(x, y)] };
  };
const scan = ops.associativeScan("sumOfTwo", ["a"], ([l], [r]) => [e.add(l!, r!)]);

/** Every public op, forward and, where it has one, backward. */
const OPS: Readonly<Record<string, (gpu: Gpu) => Made>> = {
  ...Object.fromEntries(
    (
      [
        "abs",
        "exp",
        "gelu",
        "geluTanh",
        "log",
        "neg",
        "relu",
        "rsqrt",
        "sigmoid",
        "silu",
        "sqrt",
        "square",
        "tanh",
      ] as const
    ).map((name) => [name, unary((x) => arithmetic[name](x))]),
  ),
  ...Object.fromEntries(
    (
      [
        ...["add", "div", "equal", "greater", "greaterEqual", "less", "lessEqual"],
        ...["maximum", "minimum", "mul", "sub"],
      ] as (keyof typeof arithmetic)[]
    ).map((name) => [name, binary((a, b) => (arithmetic[name] as (a: Tensor, b: Tensor) => Tensor)(a, b))]),
  ),
  where: (gpu) => {
    const [c, a, b] = [ids(gpu, [0, 1, 1, 0, 1]), f(gpu, [5]), f(gpu, [5], 2)];
    return { wrt: [a, b], run: () => [arithmetic.where(c, a, b)] };
  },
  cast: unary((x) => cast(x, "f32")),
  matmul: binary((a, b) => ops.matmul(a, b), [8, 3]),
  linear: binary((a, b) => ops.linear(a, b), [3, 8]),
  broadcastTo: unary((x) => ops.broadcastTo(x, [3, 5, 8])),
  concat: binary((a, b) => ops.concat([a, b]), [2, 8]),
  flip: unary((x) => ops.flip(x, 0)),
  pad: unary((x) => ops.pad(x, 0, 1, 2)),
  repeat: unary((x) => ops.repeat(x, 2, 1)),
  slice: unary((x) => ops.slice(x, { axis: 0, start: 1, end: 3 })),
  split: unary((x) => ops.split(x, [3, 5])),
  stack: unary((x) => ops.stack([x, x])),
  transpose: unary((x) => ops.transpose(x)),
  logSoftmax: unary(ops.logSoftmax),
  logSumExp: unary(ops.logSumExp),
  max: unary((x) => ops.max(x)),
  mean: unary((x) => ops.mean(x)),
  min: unary((x) => ops.min(x)),
  softmax: unary(ops.softmax),
  sum: unary((x) => ops.sum(x)),
  variance: unary((x) => ops.variance(x)),
  argmax: (gpu) => {
    const x = f(gpu, [5, 8]);
    return { wrt: [], run: () => [ops.argmax(x)] };
  },
  argmin: (gpu) => {
    const x = f(gpu, [5, 8]);
    return { wrt: [], run: () => [ops.argmin(x, { axis: 0 })] };
  },
  argsort: (gpu) => {
    const x = f(gpu, [5, 8]);
    return { wrt: [], run: () => [ops.argsort(x)] };
  },
  sort: unary((x) => {
    const sorted = ops.sort(x);
    return [sorted.values, sorted.indices];
  }),
  topk: unary((x) => {
    const best = ops.topk(x, 3);
    return [best.values, best.indices];
  }),
  associativeScan: unary((x) => scan([x], { axis: 0 })),
  cumsum: unary((x) => ops.cumsum(x)),
  linearRecurrence: binary((a, b) => ops.linearRecurrence(a, b), [5, 8]),
  causalConv1d: (gpu) => {
    const [x, w] = [f(gpu, [1, 6, 4]), f(gpu, [4, 3], 2)];
    return { wrt: [x, w], run: () => Object.values(ops.causalConv1d(x, w)) };
  },
  embedding: (gpu) => {
    const [table, at] = [f(gpu, [7, 4]), ids(gpu, [1, 6, 1])];
    return { wrt: [table], run: () => [ops.embedding(table, at)] };
  },
  gather: (gpu) => {
    const [x, at] = [f(gpu, [5, 8]), ids(gpu, [1, 7, 1])];
    return { wrt: [x], run: () => [ops.gather(x, at, 1)] };
  },
  scatterAdd: (gpu) => {
    const [x, at] = [f(gpu, [3, 4]), ids(gpu, [1, 0, 1])];
    return { wrt: [x], run: () => [ops.scatterAdd(x, at, 5)] };
  },
  clip: unary((x) => arithmetic.clip(x, -0.5, 0.5)),
  pow: unary((x) => ops.pow(x, 3)),
  takeAlong: (gpu) => {
    const [x, at] = [f(gpu, [4, 3]), ids(gpu, [1, 3, 0], [1, 3])];
    return { wrt: [x], run: () => [ops.takeAlong(x, at, 0)] };
  },
  gatherND: (gpu) => {
    const [x, at] = [f(gpu, [4, 3]), ids(gpu, [1, 2, 0, 0], [2, 2])];
    return { wrt: [x], run: () => [ops.gatherND(x, at)] };
  },
  scatterND: (gpu) => {
    const [x, at, u] = [f(gpu, [4, 3]), ids(gpu, [1, 2, 1, 2], [2, 2]), f(gpu, [2], 2)];
    return { wrt: [x, u], run: () => [ops.scatterND(x, at, u, { reduction: "mul" })] };
  },
  scatterElements: (gpu) => {
    const [x, at, u] = [f(gpu, [4, 3]), ids(gpu, [1, 2, 1, 2], [2, 2]), f(gpu, [2, 2], 2)];
    return { wrt: [x, u], run: () => [ops.scatterElements(x, at, u, { axis: 1 })] };
  },
  takeAlongLast: (gpu) => {
    const [x, at] = [f(gpu, [2, 8]), ids(gpu, [1, 7, 0, 3], [2, 2])];
    return { wrt: [x], run: () => [ops.takeAlongLast(x, at)] };
  },
  groupBy: (gpu) => {
    const at = ids(gpu, [1, 0, 2, 1]);
    return { wrt: [], run: () => Object.values(ops.groupBy(at, 4)) as Tensor[] };
  },
  groupedMatmul: (gpu) => {
    const [x, w, offsets] = [f(gpu, [6, 8]), f(gpu, [2, 3, 8], 2), gpu.tensor([0, 2, 6], [3], "u32")];
    return { wrt: [x, w], run: () => [ops.groupedMatmul(x, w, offsets)] };
  },
  crossEntropy: (gpu) => {
    const [x, t] = [f(gpu, [3, 9]), ids(gpu, [0, 8, 4])];
    return { wrt: [x], run: () => [ops.crossEntropy(x, t)] };
  },
  negativeLogLikelihood: (gpu) => {
    const [x, t, w] = [f(gpu, [3, 9]), ids(gpu, [0, 8, 4]), gpu.full([9], 2)];
    return { wrt: [x], run: () => [ops.negativeLogLikelihood(x, t, { classWeights: w })] };
  },
  linearCrossEntropy: (gpu) => {
    const [x, w, t] = [f(gpu, [3, 8]), f(gpu, [9, 8], 2), ids(gpu, [0, 8, 4])];
    return { wrt: [x, w], run: () => [ops.linearCrossEntropy(x, w, t)] };
  },
  dropout: unary((x) => random.dropout(x, 0.5, { seed: 1 })),
  randomNormal: (gpu) => ({ wrt: [], run: () => [random.randomNormal(gpu, [5], { seed: 1 })] }),
  randomUniform: (gpu) => ({ wrt: [], run: () => [random.randomUniform(gpu, [5], { seed: 1 })] }),
  sample: (gpu) => {
    const x = f(gpu, [1, 30]);
    return { wrt: [], run: () => [random.sample(x, { seed: 1, topK: 5, topP: 0.9 })] };
  },
  repetitionPenalty: (gpu) => {
    const [x, at] = [f(gpu, [1, 30]), ids(gpu, [1, 2], [1, 2])];
    return { wrt: [], run: () => [random.repetitionPenalty(x, at, 1.2)] };
  },
};
/** Exports that are not ops on tensors. */
const NO_OPS = [
  ...["adaptLinear", "isAdapted"],
  ...["rowElement", "rowLanes", "rowMain", "rowPrelude", "rowVariant", "stridedCopy", "stridesOf"],
];

describe("every public op", () => {
  it("is in the list below", () => {
    const names = [arithmetic, ops, random].flatMap((module) =>
      Object.entries(module).flatMap(([name, value]) => (typeof value === "function" ? [name] : [])),
    );
    expect(names.filter((name) => !(name in OPS) && !NO_OPS.includes(name))).toEqual([]);
  });

  it("gives every buffer back, forward and backward", async () => {
    const { gpu } = device;
    const leaks: string[] = [];
    for (const [name, make] of Object.entries(OPS)) {
      const before = gpu.memory();
      const once = (): void => {
        gpu.scope(() => {
          const { wrt, run } = make(gpu);
          if (wrt.length === 0) {
            run();
            return;
          }
          const tape = vjp(run, wrt);
          tape.pullback(
            tape.outputs.map((out) => (out.dtype === "f32" ? gpu.full(out.shape, 1) : undefined)),
          );
        });
      };
      for (let i = 0; i < 3; i++) once();
      const after = gpu.memory();
      if (after.liveBuffers !== before.liveBuffers || after.liveBytes !== before.liveBytes)
        leaks.push(`${name}: ${before.liveBuffers} buffers before, ${after.liveBuffers} after`);
    }
    await gpu.sync();
    expect(leaks).toEqual([]);
  });
});

describe("hostile indices read nothing that is not theirs", () => {
  const BAD = [-1, 4, 5, 1000, 2 ** 31 - 1, -(2 ** 31), -2, 65536];
  const SECRET = 777;

  /** Four rows between buffers full of a number that must not be seen. */
  const table = (gpu: Gpu): Tensor => {
    gpu.full([4, 4], SECRET);
    const rows = gpu.tensor(
      Array.from({ length: 16 }, (_, i) => i / 16),
      [4, 4],
    );
    gpu.full([4, 4], SECRET);
    return rows;
  };

  it("gather, embedding, takeAlongLast, scatterAdd and groupBy", async () => {
    const { gpu } = device;
    const x = table(gpu);
    const at = ids(gpu, [2, ...BAD]);
    for (const op of [() => gather(x, at), () => embedding(x, at)]) {
      const tape = vjp(() => [op()], [x]);
      const out = Array.from(await tape.outputs[0]!.read());
      expect(out.slice(0, 4)).toEqual([8, 9, 10, 11].map((v) => v / 16));
      expect(out.slice(4).every(Number.isNaN)).toBe(true);
      const [grad] = tape.pullback([gpu.full([9, 4], 1)]);
      expect(Array.from(await grad!.read())).toEqual([...Array<number>(8).fill(0), 1, 1, 1, 1, 0, 0, 0, 0]);
    }
    const row = table(gpu).reshape([1, 16]);
    const along = Array.from(await takeAlongLast(row, ids(gpu, [3, ...BAD], [1, 9])).read());
    expect(along.map((value) => (Number.isNaN(value) ? -1 : value * 16))).toEqual([
      3, -1, 4, 5, -1, -1, -1, -1, -1,
    ]);
    const updates = gpu.full([9, 2], 1);
    expect(Array.from(await scatterAdd(updates, at, 4).read())).toEqual([0, 0, 0, 0, 1, 1, 0, 0]);
    const { offsets } = groupBy(at, 4);
    expect(Array.from(await offsets.read()).slice(0, 5)).toEqual([0, 0, 0, 1, 1]);
  });

  it("cross-entropy of targets outside is NaN; the others keep their gradient", async () => {
    const { gpu } = device;
    const targets = ids(gpu, [1, ...BAD]);
    const x = randomNormal(gpu, [9, 4], { seed: 1 });
    const w = randomNormal(gpu, [4, 4], { seed: 2 });
    const values = Array.from(await crossEntropy(x, targets, { reduction: "none" }).read());
    expect(values[0]).toBeGreaterThan(0);
    expect(values[0]).toBeLessThan(20);
    expect(values.slice(1).every(Number.isNaN)).toBe(true);
    expect(await linearCrossEntropy(x, w, targets).item()).toBeNaN();
    // The first row's own gradient is that of a batch without the others.
    const grads = vjp(() => [crossEntropy(x, targets, { reduction: "none" })], [x]).pullback([
      gpu.full([9], 1),
    ]);
    const row = Array.from(await grads[0]!.read()).slice(0, 4);
    expect(Math.abs(row.reduce((a, c) => a + c, 0))).toBeLessThan(1e-6);
    expect(row[1]).toBeLessThan(0);
  });
});

describe("running out of memory", () => {
  it("is a typed error; nothing is lost and the work goes on", async () => {
    const gpu = await openDevice({ fillWithNaN: true, memoryBudget: 256 * 1024 });
    try {
      const w = gpu.keep(gpu.full([16, 16], 0.5));
      const x = gpu.keep(gpu.full([4, 16], 1));
      const optimizer = new AdamW({ w }, { learningRate: 0.1 });
      const step = (rows: number): number =>
        gpu.scope(() => {
          const input = ops.repeat(x, rows, 0);
          const { grads } = valueAndGrad(
            () => ops.mean(silu(linear(input, w)), { axes: [0, 1] }).reshape([1]),
            { w },
          );
          optimizer.step(grads);
          return 0;
        });
      step(1);
      await gpu.sync();
      const before = gpu.memory();
      const weights = Array.from(await w.read());
      expect(() => step(4000)).toThrow(OutOfMemoryError);
      expect(gpu.memory().liveBytes).toBe(before.liveBytes);
      expect(Array.from(await w.read())).toEqual(weights);
      step(1);
      expect(Array.from(await w.read())).not.toEqual(weights);
      expect(gpu.memory().liveBytes).toBe(before.liveBytes);
    } finally {
      gpu.destroy();
    }
  });
});

describe("a lost device", () => {
  it("rejects every waiting caller within two seconds, once and typed, and no rejection goes unhandled", async () => {
    const unhandled: unknown[] = [];
    const note = (error: unknown): void => {
      unhandled.push(error);
    };
    process.on("unhandledRejection", note);
    try {
      const gpu = await openDevice();
      const fresh = elementwise("neverCompiledBefore", ["x"], (x) => e.add(e.mul(x, 3.25), 1));
      const x = gpu.tensor([1, 2, 3], [3]);
      const started = performance.now();
      const waiting = [fresh(x).read(), gpu.sync(), gpu.warmup(() => fresh(x)), silu(x).read()];
      gpu.device.destroy();
      const results = await Promise.allSettled(waiting);
      for (const result of results)
        if (result.status === "rejected") expect(DeviceLostError.isInstance(result.reason)).toBe(true);
      expect(DeviceLostError.isInstance(await gpu.lost)).toBe(true);
      for (const use of [() => gpu.zeros([1]), () => silu(x), () => gpu.record(() => x)])
        expect(use).toThrow(DeviceLostError);
      await expect(gpu.sync()).rejects.toSatisfy((error) => DeviceLostError.isInstance(error));
      expect(performance.now() - started).toBeLessThan(2000);
      const again = await openDevice();
      expect(Array.from(await fresh(again.tensor([1], [1])).read())).toEqual([4.25]);
      again.destroy();
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(unhandled).toEqual([]);
    } finally {
      process.off("unhandledRejection", note);
    }
  });
});

describe("thousands of training steps", () => {
  const setUp = (gpu: Gpu): { step: () => Tensor; advance: () => void; count: number } => {
    const w1 = gpu.keep(randomNormal(gpu, [16, 8], { seed: 1, stream: 1, std: 0.3 }));
    const w2 = gpu.keep(randomNormal(gpu, [4, 16], { seed: 1, stream: 2, std: 0.3 }));
    const x = gpu.keep(randomNormal(gpu, [6, 8], { seed: 2 }));
    const targets = gpu.keep(ids(gpu, [0, 1, 2, 3, 0, 1]));
    const optimizer = new AdamW({ w1, w2 }, { learningRate: 0.01 });
    const step = (): Tensor => {
      const { value, grads } = valueAndGrad(() => crossEntropy(linear(silu(linear(x, w1)), w2), targets), {
        w1,
        w2,
      });
      optimizer.update(grads);
      return value;
    };
    return {
      step,
      advance: () => {
        optimizer.advance();
      },
      count: 2000,
    };
  };

  it("hold live and pooled bytes flat, recorded or not", async () => {
    for (const recorded of [false, true]) {
      const gpu = await openDevice();
      const { step, advance, count } = setUp(gpu);
      advance();
      gpu.scope(step).dispose();
      const recording = recorded ? gpu.record(step) : undefined;
      const run = (): void => {
        advance();
        if (recording) recording.replay();
        else gpu.scope(step).dispose();
      };
      for (let i = 0; i < 50; i++) run();
      await gpu.sync();
      const before = gpu.memory();
      for (let i = 0; i < count; i++) {
        run();
        if (i % 200 === 199) await gpu.sync();
      }
      const after = gpu.memory();
      expect({ ...after }, recorded ? "recorded" : "not recorded").toEqual(before);
      gpu.destroy();
    }
    // 4000 steps: half a minute where two processes share a core.
  }, 180_000);
});
