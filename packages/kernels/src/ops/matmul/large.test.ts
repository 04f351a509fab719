import { describe, expect, it } from "vitest";
import {
  AdamW,
  add,
  cast,
  clipGradNorm,
  crossEntropy,
  embedding,
  groupedMatmul,
  linear,
  linearCrossEntropy,
  matmul,
  openDevice,
  OutOfMemoryError,
  quantize,
  randomNormal,
  slice,
  valueAndGrad,
  vjp,
  type Gpu,
  type Tensor,
} from "../../index.js";
import { expectClose, numbers, useGpu } from "../../test-support.js";

/** A device that is as good as `gpu` but says that it binds no more than `bytes`: what is larger is split. */
function narrow(gpu: Gpu, bytes: number): void {
  const limits = new Proxy(gpu.limits, {
    get: (target, key) =>
      key === "maxStorageBufferBindingSize" ? bytes : (Reflect.get(target, key, target) as unknown),
  });
  Object.defineProperty(gpu, "limits", { value: limits });
}

/** Rows of 128 f32 that two bindings of this size just do not hold. */
const LIMIT = 128 * 512;
const [ROWS, WIDTH] = [300, 128];

describe("matrices larger than a binding", () => {
  const whole = useGpu();
  const parts = useGpu();

  /** The same on a device that binds everything, and on one that has to split. */
  async function expectSame(run: (gpu: Gpu) => Tensor[], tolerance = 1e-6): Promise<void> {
    narrow(parts.gpu, LIMIT);
    const [expected, got] = [run(whole.gpu), run(parts.gpu)];
    for (const [i, t] of got.entries()) await expectClose(t, await expected[i]!.read(), tolerance);
  }
  const tensor = (gpu: Gpu, shape: readonly number[], seed: number): Tensor =>
    gpu.tensor(
      numbers(
        shape.reduce((a, b) => a * b, 1),
        seed,
      ),
      shape,
    );
  const ids = (gpu: Gpu): Tensor => gpu.tensor([ROWS - 1, 0, 127, 128, 255, 256, ROWS, -1], [8], "i32");

  it("embedding with its gradient", async () => {
    await expectSame((gpu) => {
      const table = tensor(gpu, [ROWS, WIDTH], 1);
      const known = slice(ids(gpu), { axis: 0, end: 6 });
      const { outputs, pullback } = vjp(() => [embedding(table, known)], [table]);
      return [...outputs, ...pullback([tensor(gpu, [6, WIDTH], 2)])];
    });
    const out = await embedding(tensor(parts.gpu, [ROWS, WIDTH], 1), ids(parts.gpu)).read();
    expect([...out.subarray(6 * WIDTH)].every(Number.isNaN)).toBe(true);
  });

  it("linear with bias, activation and residual, and every gradient", async () => {
    for (const M of [1, 9])
      await expectSame((gpu) => {
        const [x, w, b] = [tensor(gpu, [M, WIDTH], 1), tensor(gpu, [ROWS, WIDTH], 2), tensor(gpu, [ROWS], 3)];
        const residual = tensor(gpu, [M, ROWS], 4);
        const { outputs, pullback } = vjp(() => [linear(x, w, b, { residual })], [x, w, b]);
        const few = linear(x, w, b, { activation: "silu", residual });
        return [few, ...outputs, ...pullback([tensor(gpu, [M, ROWS], 5)])];
      }, 3e-6);
  });

  it("a matrix that is not transposed, with everything after the sum", async () => {
    await expectSame((gpu) => {
      const [a, b] = [tensor(gpu, [7, ROWS], 1), tensor(gpu, [ROWS, WIDTH], 2)];
      const rest = { bias: tensor(gpu, [WIDTH], 3), residual: tensor(gpu, [7, WIDTH], 4) };
      return [matmul(a, b, { ...rest, activation: "silu", alpha: 0.5 }), matmul(a, b, rest)];
    }, 3e-6);
  });

  it("a head with linearCrossEntropy, the norm of its gradient, and AdamW", async () => {
    await expectSame((gpu) => {
      const head = randomNormal(gpu, [ROWS, WIDTH], { seed: 3, std: 0.1 });
      const x = tensor(gpu, [12, WIDTH], 1);
      const labels = gpu.tensor(
        numbers(12, 4).map((v) => Math.floor((v + 1) * 149)),
        [12],
        "i32",
      );
      const { value, grads } = valueAndGrad(
        () =>
          add(
            linearCrossEntropy(x, head, labels),
            crossEntropy(linear(embedding(head, labels), head), labels),
          ),
        { head },
      );
      const { norm, scale } = clipGradNorm(grads, 0.1);
      new AdamW({ head }, { learningRate: 0.01 }).step(grads, { scale });
      return [value, norm, head];
    }, 1e-5);
  });

  it("stored matrices: lookup, products, widening, and stacks of experts", async () => {
    const [rows, K] = [1500, 128];
    for (const type of ["q4_0", "bf16"] as const)
      await expectSame((gpu) => {
        const data = numbers(rows * K, 1);
        const w =
          type === "bf16"
            ? gpu.tensor(data, [rows, K], type)
            : gpu.fromBytes(quantize(data, type), [rows, K], type);
        const x = tensor(gpu, [5, K], 2);
        const { outputs, pullback } = vjp(() => [linear(x, w)], [x]);
        const experts = gpu.tensor(numbers(40 * 64 * K, 3), [40, 64, K], type);
        // Groups 3, 20, 21 and 39 have rows; the last row has no group.
        const starts = Array.from({ length: 41 }, (_, e) => [4, 21, 22, 40].filter((end) => end <= e).length);
        const offsets = gpu.tensor(starts, [41], "u32");
        const bias = tensor(gpu, [40, 64], 5);
        return [
          embedding(w, gpu.tensor([rows - 1, 0, 1024], [3], "i32")),
          linear(slice(x, { axis: 0, end: 1 }), w),
          ...outputs,
          ...pullback([tensor(gpu, [5, rows], 4)]),
          embedding(cast(w, "f32"), gpu.tensor([rows - 1, 127], [2], "i32")),
          groupedMatmul(x, experts, offsets),
          groupedMatmul(x, experts, offsets, { bias }),
        ];
      }, 3e-6);
  });

  it("an op that has no parts names the tensor, its size and the limit", () => {
    narrow(parts.gpu, LIMIT);
    const large = tensor(parts.gpu, [ROWS, WIDTH], 1);
    expect(() => slice(large, { axis: 0, start: 1 })).toThrow(OutOfMemoryError);
    expect(() => slice(large, { axis: 0, start: 1 })).toThrow(
      /\[300, 128\] takes 153600 bytes.*at most 65536/,
    );
  });
});

describe("an embedding of 32,769 x 1,024, a row more than 128 MiB", () => {
  it("looks up the last row, gives tied logits, and is trained", { timeout: 180_000 }, async () => {
    const gpu = await openDevice();
    const [rows, width] = [32769, 1024];
    const table = randomNormal(gpu, [rows, width], { seed: 1, std: 0.02 });
    const ids = gpu.tensor([rows - 1, 0, 32768, 5], [4], "i32");
    const read = async (): Promise<Float32Array> =>
      (await embedding(table, gpu.tensor([rows - 1], [1], "i32")).read()) as Float32Array;
    const before = await read();
    const { value, grads } = valueAndGrad(() => crossEntropy(linear(embedding(table, ids), table), ids), {
      table,
    });
    // Tied logits of the last row with itself, in float64.
    const logits = linear(embedding(table, ids), table);
    expect(logits.shape).toEqual([4, rows]);
    const own = slice(logits, { axis: 1, start: rows - 1 });
    const square = before.reduce((sum, v) => sum + v * v, 0);
    await expectClose(slice(own, { axis: 0, end: 1 }), [square], 1e-5);
    expect(await value.item()).toBeGreaterThan(5);
    new AdamW({ table }, { learningRate: 0.1, weightDecay: 0 }).step(grads);
    const after = await read();
    const gradient = (await embedding(
      grads.table,
      gpu.tensor([rows - 1], [1], "i32"),
    ).read()) as Float32Array;
    // The first step of AdamW is the learning rate along the sign of the gradient.
    for (let i = 0; i < width; i++)
      expect(Math.abs(after[i]! - before[i]! + 0.1 * Math.sign(gradient[i]!))).toBeLessThan(1e-3);
    gpu.destroy();
  });
});
