import { expect, it } from "vitest";
import { DTypeError, ShapeError, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, relativeError } from "@x/testing";
import { BatchNorm, batchNorm } from "./batchnorm.js";
import { batchNormReference, type BatchReference } from "./batchnorm.reference.js";
import { eachForm, rowsOf, upload } from "../test-support.js";

const DEFAULTS = { eps: 1e-5, momentum: 0.1 };

function problem(dim: number, training: boolean, mask?: number[]): BatchReference {
  return {
    dim,
    training,
    ...DEFAULTS,
    runningMean: numbers(dim, 7),
    runningVar: numbers(dim, 8).map((v) => 1 + v / 2),
    mask,
  };
}

eachForm("batchNorm", (device) => {
  const run = (p: BatchReference, x: Tensor, weight?: Tensor, bias?: Tensor) =>
    batchNorm(x, {
      training: p.training,
      eps: p.eps,
      momentum: p.momentum,
      ...(p.runningVariance && { runningVariance: p.runningVariance }),
      runningMean: x.gpu.tensor(p.runningMean, [p.dim]),
      runningVar: x.gpu.tensor(p.runningVar, [p.dim]),
      weight,
      bias,
      mask: p.mask ? x.gpu.tensor(p.mask, x.shape.slice(0, -1), "i32") : undefined,
    });

  it(
    "equals its reference in training and in inference, masked or not, with gradients",
    { timeout: 300_000 },
    async () => {
      for (const [shape, mask] of [
        [[2, 3, 4], undefined],
        [
          [2, 5, 3],
          [1, 1, 1, 0, 0, 1, 1, 0, 0, 1],
        ],
        [[1, 9, 8], undefined],
        [[3, 7, 5], undefined],
        [
          [2, 3, 12],
          [0, 0, 1, 1, 1, 1],
        ],
        [
          [2, 2, 65],
          [1, 1, 0, 1],
        ],
      ] as const)
        for (const training of [true, false]) {
          const dim = shape[2];
          const p = problem(dim, training, mask ? [...mask] : undefined);
          await checkOp(
            device.gpu,
            (x, w, b) => run(p, x, w, b).out,
            (x, w, b) => batchNormReference(p, x, w, b).out,
            [operand(shape, 1), operand([dim], 2), operand([dim], 3)],
          );
          await checkOp(
            device.gpu,
            (x) => run(p, x).out,
            (x) => batchNormReference(p, x).out,
            [operand(shape, 4)],
          );
        }
    },
  );

  it("updates the running statistics with the sample variance, or with the population's", async () => {
    for (const [shape, mask] of [
      [[2, 3, 4], undefined],
      [
        [2, 3, 5],
        [1, 0, 1, 1, 0, 0],
      ],
      [[1, 1, 6], undefined],
      [[40, 33, 20], undefined],
    ] as const) {
      for (const runningVariance of ["sample", "population"] as const) {
        const p = { ...problem(shape[2], true, mask ? [...mask] : undefined), runningVariance };
        const x = operand(shape, 1);
        const got = run(p, upload(device.gpu, x));
        const want = batchNormReference(p, x.data);
        expect(relativeError(await got.runningMean.read(), want.runningMean)).toBeLessThan(1e-6);
        expect(relativeError(await got.runningVar.read(), want.runningVar)).toBeLessThan(1e-6);
        expect(relativeError(await got.out.read(), want.out)).toBeLessThan(1e-5);
      }
    }
  });

  it("keeps its figures under a large mean, over many chunks of rows", async () => {
    const p = problem(24, true);
    const x = rowsOf([1500, 24], (i) => 300 + Math.sin(i * 1.7));
    const got = await run(p, upload(device.gpu, x)).out.read();
    expect(relativeError(got, batchNormReference(p, x.data).out)).toBeLessThan(2e-4);
  });

  it("does not see padded tokens", async () => {
    const p = problem(6, true, [1, 1, 0, 1, 0, 1]);
    const x = operand([2, 3, 6], 1);
    const other = { shape: x.shape, data: x.data.map((v, i) => (p.mask![Math.floor(i / 6)] ? v : NaN)) };
    const [a, b] = [run(p, upload(device.gpu, x)), run(p, upload(device.gpu, other))];
    expect(relativeError(await a.out.read(), await b.out.read())).toBe(0);
    expect(relativeError(await a.runningVar.read(), await b.runningVar.read())).toBe(0);
    expect([...(await a.out.read())].slice(12, 18).every((v) => v === 0)).toBe(true);
  });

  it("in inference gives back the running statistics it was given, and no valid token gives zeros", async () => {
    const { gpu } = device;
    const p = problem(3, false);
    const got = run(p, upload(gpu, operand([2, 2, 3], 1)));
    expect(relativeError(await got.runningMean.read(), p.runningMean)).toBe(0);
    const none = run(problem(3, true, [0, 0]), upload(gpu, operand([1, 2, 3], 1)));
    expect((await none.out.read()).every((v) => v === 0)).toBe(true);
  });

  it("is a component whose running statistics move in training and serve inference", async () => {
    const { gpu } = device;
    const norm = BatchNorm.init(gpu, { dim: 5, momentum: 0.5 });
    expect(Object.keys(norm.parameters())).toEqual(["weight", "bias"]);
    const x = upload(gpu, operand([2, 4, 5], 1));
    const live = gpu.memory().liveBuffers;
    for (let step = 0; step < 3; step++) norm.forward(x, { training: true }).dispose();
    expect(gpu.memory().liveBuffers).toBe(live);
    let expected: { runningMean: Float64Array; runningVar: Float64Array } = {
      runningMean: new Float64Array(5),
      runningVar: new Float64Array(5).fill(1),
    };
    for (let step = 0; step < 3; step++)
      expected = batchNormReference(
        { ...problem(5, true), momentum: 0.5, ...expected },
        operand([2, 4, 5], 1).data,
      );
    const again = new BatchNorm({ dim: 5 }, { ...norm.parameters(), ...norm.buffers() });
    const { out } = batchNormReference({ ...problem(5, false), ...expected }, operand([2, 4, 5], 1).data);
    expect(relativeError(await again.forward(x, { training: false }).read(), out)).toBeLessThan(1e-5);
    expect(() => norm.forward(x, {} as never)).toThrow(/training is missing/);
  });

  it("refuses what does not fit, by name", () => {
    expect(() => new BatchNorm({ dim: 4, epsilon: 1 } as never, {})).toThrow(/unknown key "epsilon"/);
    const { gpu } = device;
    const x = gpu.zeros([2, 3, 4]);
    const stats = { runningMean: gpu.zeros([4]), runningVar: gpu.full([4], 1) };
    expect(() => batchNorm(x, { training: true, ...stats, weight: gpu.zeros([3]) })).toThrow(
      /batchNorm: weight has shape \[3\]; it must be \[4\]/,
    );
    expect(() => batchNorm(x, { training: true, ...stats, mask: gpu.zeros([2, 2], "i32") })).toThrow(
      ShapeError,
    );
    expect(() => batchNorm(x, { training: true, ...stats, mask: gpu.zeros([2, 3]) })).toThrow(DTypeError);
    expect(() => batchNorm(x, { training: true, ...stats, momentum: 2 })).toThrow(/momentum is 2/);
    expect(() => batchNorm(gpu.zeros([4]), { training: true, ...stats })).toThrow(/must be \[\.\., dim\]/);
    expect(() => batchNorm(x, { training: true, ...stats, runingMean: 1 } as never)).toThrow(/did you mean/);
    expect(() => batchNorm(x, { training: true, ...stats, runningVariance: "sampel" } as never)).toThrow(
      /did you mean "sample"/,
    );
    expect(() => batchNorm(x, { ...stats } as never)).toThrow(/training is missing/);
  });
});
