import { describe, expect, it } from "vitest";
import { checkOp, numbers, operand, product, relativeError, useGpu } from "../../test-support.js";
import {
  matmul,
  openDevice,
  linear,
  ShapeError,
  DTypeError,
  ConfigError,
  silu,
  vjp,
  e,
  input,
  type Tensor,
} from "../../index.js";
import { chooseTile, type MatmulForm } from "./form.js";

const device = useGpu();

interface Problem {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  readonly batchA?: readonly number[];
  readonly batchB?: readonly number[];
}

function shapes(p: Problem): [number[], number[], number[]] {
  const { M, N, K, transposeA = false, transposeB = false, batchA = [], batchB = [] } = p;
  const rank = Math.max(batchA.length, batchB.length);
  const batch = Array.from({ length: rank }, (_, i) =>
    Math.max(batchA[i - rank + batchA.length] ?? 1, batchB[i - rank + batchB.length] ?? 1),
  );
  return [
    [...batchA, ...(transposeA ? [K, M] : [M, K])],
    [...batchB, ...(transposeB ? [N, K] : [K, N])],
    [...batch, M, N],
  ];
}

function reference(p: Problem): (a: Float64Array, b: Float64Array) => Float64Array {
  const { M, N, K, transposeA = false, transposeB = false } = p;
  const [shapeA, shapeB, shape] = shapes(p);
  const batch = shape.slice(0, -2);
  const offset = (z: number, operandShape: readonly number[]): number => {
    const own = operandShape.slice(0, -2);
    let at = 0;
    let stride = 1;
    for (let axis = batch.length - 1; axis >= 0; axis--) {
      const n = own[axis - batch.length + own.length] ?? 1;
      const i = z % (batch[axis] ?? 1);
      z = Math.floor(z / (batch[axis] ?? 1));
      if (n > 1) at += i * stride;
      stride *= n;
    }
    return at;
  };
  return (a, b) => {
    const out = new Float64Array(product(shape));
    for (let z = 0; z < product(batch); z++) {
      const [za, zb] = [offset(z, shapeA) * M * K, offset(z, shapeB) * K * N];
      for (let i = 0; i < M; i++)
        for (let j = 0; j < N; j++) {
          let sum = 0;
          for (let k = 0; k < K; k++)
            sum +=
              (a[za + (transposeA ? k * M + i : i * K + k)] ?? NaN) *
              (b[zb + (transposeB ? j * K + k : k * N + j)] ?? NaN);
          out[(z * M + i) * N + j] = sum;
        }
    }
    return out;
  };
}

const transposes = [
  [false, false],
  [false, true],
  [true, false],
  [true, true],
] as const;

describe("matmul", () => {
  it.each(["subgroup", "tiled", "vector"] as const)(
    "%s form: every transpose at odd and even sizes",
    async (form: MatmulForm) => {
      const { gpu } = device;
      for (const [transposeA, transposeB] of transposes)
        for (const [M, N, K] of [
          [1, 1, 1],
          [3, 5, 7],
          [12, 32, 16],
          [13, 37, 19],
          [64, 64, 64],
          [4, 100, 33],
          [70, 68, 36],
        ] as const) {
          const p: Problem = { M, N, K, transposeA, transposeB };
          const [shapeA, shapeB] = shapes(p);
          const [a, b] = [numbers(product(shapeA), 1), numbers(product(shapeB), 2)];
          const result = gpu.scope(() =>
            matmul(gpu.tensor(a, shapeA), gpu.tensor(b, shapeB), { transposeA, transposeB, form }),
          );
          const error = relativeError(await result.read(), reference(p)(a, b));
          expect(error, JSON.stringify(p)).toBeLessThan(3e-6);
          result.dispose();
        }
    },
  );

  it(
    "large products that no tile divides, every transpose, in the form that is chosen and in tiles, equal the reference",
    { timeout: 180_000 },
    async () => {
      const { gpu } = device;
      const [M, N, K] = [532, 516, 524];
      for (const [transposeA, transposeB] of transposes) {
        const [shapeA, shapeB] = shapes({ M, N, K, transposeA, transposeB });
        const a = gpu.tensor(numbers(product(shapeA), 1), shapeA);
        const b = gpu.tensor(numbers(product(shapeB), 2), shapeB);
        const expected = reference({ M, N, K, transposeA, transposeB })(
          Float64Array.from(await a.read()),
          Float64Array.from(await b.read()),
        );
        for (const form of ["auto", "tiled"] as const) {
          const result = gpu.scope(() => matmul(a, b, { transposeA, transposeB, form }));
          expect(relativeError(await result.read(), expected), form).toBeLessThan(3e-6);
          result.dispose();
        }
        for (const t of [a, b]) t.dispose();
      }
    },
  );

  it("the tiled form's larger tile, of enough products: every transpose", { timeout: 180_000 }, async () => {
    const { gpu } = device;
    const [count, M, N, K] = [33, 131, 132, 21];
    expect(chooseTile(M, N, count)).toBe(8);
    for (const [transposeA, transposeB] of transposes) {
      const [shapeA, shapeB] = shapes({ M, N, K, transposeA, transposeB });
      const a = gpu.tensor(numbers(count * M * K, 1), [count, ...shapeA]);
      const b = gpu.tensor(numbers(count * N * K, 2), [count, ...shapeB]);
      const result = gpu.scope(() => matmul(a, b, { transposeA, transposeB, form: "tiled" }));
      const last = (t: ArrayLike<number>, size: number): Float64Array => Float64Array.from(t).slice(-size);
      const expected = reference({ M, N, K, transposeA, transposeB })(
        last(await a.read(), M * K),
        last(await b.read(), N * K),
      );
      expect(relativeError(last(await result.read(), M * N), expected)).toBeLessThan(3e-6);
      for (const t of [a, b, result]) t.dispose();
    }
  });

  it("broadcasts batch axes, with gradients", async () => {
    for (const [batchA, batchB] of [
      [[3], [3]],
      [[3], []],
      [[], [3]],
      [
        [2, 1],
        [1, 3],
      ],
      [[2, 3], [3]],
      [
        [2, 1, 2],
        [3, 1],
      ],
    ] as const)
      for (const [transposeA, transposeB] of transposes) {
        const p: Problem = { M: 5, N: 6, K: 3, batchA, batchB, transposeA, transposeB };
        const [shapeA, shapeB] = shapes(p);
        await checkOp(device.gpu, (a, b) => matmul(a, b, { transposeA, transposeB }), reference(p), [
          operand(shapeA, 3),
          operand(shapeB, 4),
        ]);
      }
  });

  it("fuses bias, activation, residual and alpha, with gradients", async () => {
    const p: Problem = { M: 7, N: 10, K: 5 };
    const f = (z: number): number => z / (1 + Math.exp(-z));
    await checkOp(
      device.gpu,
      (a, b, bias, residual) => matmul(a, b, { bias, residual, activation: "silu", alpha: 0.5 }),
      (a, b, bias, residual) =>
        reference(p)(a, b).map((z, i) => f(0.5 * z + (bias[i % 10] ?? 0)) + (residual[i] ?? 0)),
      [operand([7, 5], 1), operand([5, 10], 2), operand([10], 3), operand([7, 10], 4)],
    );
  });

  it("the fused epilogue equals separate operations in every form", async () => {
    const { gpu } = device;
    for (const form of ["subgroup", "tiled", "vector"] as const)
      for (const N of [8, 9]) {
        const a = numbers(6 * 8, 1);
        const b = numbers(8 * N, 2);
        const bias = numbers(N, 3);
        const residual = numbers(6 * N, 4);
        const y = gpu.scope(() =>
          matmul(gpu.tensor(a, [6, 8]), gpu.tensor(b, [8, N]), {
            bias: gpu.tensor(bias, [N]),
            residual: gpu.tensor(residual, [6, N]),
            activation: e.mul(input("x"), input("x")),
            form,
          }),
        );
        const expected = reference({ M: 6, N, K: 8 })(a, b).map(
          (z, i) => (z + (bias[i % N] ?? 0)) ** 2 + (residual[i] ?? 0),
        );
        expect(relativeError(await y.read(), expected)).toBeLessThan(1e-5);
        y.dispose();
      }
  });

  it("few rows times a wide matrix: bias, activation and residual, alone and in batches", async () => {
    const { gpu } = device;
    for (const [M, N, K, batch] of [
      [1, 1028, 36, 1],
      [3, 2048, 4, 1],
      [4, 1024, 40, 3],
    ] as const) {
      const [a, b] = [numbers(batch * M * K, 1), numbers(batch * K * N, 2)];
      const [bias, residual] = [numbers(N, 3), numbers(batch * M * N, 4)];
      const y = gpu.scope(() =>
        matmul(gpu.tensor(a, [batch, M, K]), gpu.tensor(b, [batch, K, N]), {
          bias: gpu.tensor(bias, [N]),
          residual: gpu.tensor(residual, [batch, M, N]),
          activation: e.mul(input("x"), input("x")),
        }),
      );
      const expected = reference({ M, N, K, batchA: [batch], batchB: [batch] })(a, b).map(
        (z, i) => (z + (bias[i % N] ?? 0)) ** 2 + (residual[i] ?? 0),
      );
      expect(relativeError(await y.read(), expected)).toBeLessThan(1e-5);
      y.dispose();
    }
  });

  it("takes f16 operands and accumulates in f32", async ({ skip }) => {
    const { gpu } = device;
    if (!gpu.features.f16) skip("the adapter has no shader-f16");
    for (const form of ["subgroup", "tiled", "vector"] as const)
      for (const K of [64, 65]) {
        const [a, b] = [numbers(20 * K, 1), numbers(K * 24, 2)];
        const [ta, tb] = [gpu.tensor(a, [20, K], "f16"), gpu.tensor(b, [K, 24], "f16")];
        const [a16, b16] = [Float64Array.from(await ta.read()), Float64Array.from(await tb.read())];
        const expected = reference({ M: 20, N: 24, K })(a16, b16);
        const y = gpu.scope(() => matmul(ta, tb, { form }));
        expect(y.dtype).toBe("f16");
        expect(relativeError(await y.read(), expected)).toBeLessThan(1e-3);
        const mixed = gpu.scope(() => matmul(gpu.tensor(a16, [20, K]), tb, { form }));
        expect(mixed.dtype).toBe("f32");
        expect(relativeError(await mixed.read(), expected)).toBeLessThan(3e-6);
        const run = vjp(() => [matmul(ta, tb, { form })], [ta, tb]);
        const grads = run.pullback([gpu.full([20, 24], 1, "f16")]);
        expect(grads.map((g) => g.dtype)).toEqual(["f16", "f16"]);
        const rowSums = Float64Array.from({ length: K * 24 }, (_, i) => {
          let sum = 0;
          for (let m = 0; m < 20; m++) sum += a16[m * K + Math.floor(i / 24)] ?? NaN;
          return sum;
        });
        expect(relativeError(await (grads[1] as Tensor).read(), rowSums)).toBeLessThan(1e-3);
        for (const t of [ta, tb, y, mixed]) t.dispose();
      }
  });

  it("gives zeros (or the epilogue) for an empty inner axis and nothing for empty outputs", async () => {
    const { gpu } = device;
    const y = gpu.scope(() =>
      matmul(gpu.empty([3, 0]), gpu.empty([0, 5]), { bias: gpu.tensor([1, 2, 3, 4, 5], [5]) }),
    );
    expect([...(await y.read())]).toEqual([1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5]);
    const none = gpu.scope(() => matmul(gpu.empty([0, 4]), gpu.zeros([4, 5])));
    expect(none.shape).toEqual([0, 5]);
  });

  it("is the same on every run and in either association of batches", async () => {
    const { gpu } = device;
    const a = gpu.tensor(numbers(4 * 30 * 50, 1), [4, 30, 50]);
    const b = gpu.tensor(numbers(50 * 20, 2), [50, 20]);
    const read = async (): Promise<ArrayLike<number>> => {
      const y = gpu.scope(() => matmul(a, b));
      const values = await y.read();
      y.dispose();
      return values;
    };
    expect(await read()).toEqual(await read());
  });

  it("refuses what does not fit, naming it", () => {
    const { gpu } = device;
    const a = gpu.zeros([2, 3]);
    expect(() => matmul(a, gpu.zeros([4, 5]))).toThrow(/a \[2, 3\] has 3 columns, b \[4, 5\] has 4 rows/);
    expect(() => matmul(a, gpu.zeros([3]))).toThrow(ShapeError);
    expect(() => matmul(a, gpu.zeros([3, 4], "i32"))).toThrow(DTypeError);
    expect(() => matmul(a, gpu.zeros([3, 4]), { bias: gpu.zeros([3]) })).toThrow(
      /bias has shape \[3\]; it must be \[4\]/,
    );
    expect(() => matmul(a, gpu.zeros([3, 4]), { residual: gpu.zeros([4, 2]) })).toThrow(/residual/);
    expect(() => matmul(a, gpu.zeros([3, 4]), { transposedB: true } as never)).toThrow(ConfigError);
    expect(() => matmul(gpu.zeros([2, 2, 3]), gpu.zeros([3, 3, 4]))).toThrow(ShapeError);
    expect(() => matmul(a, gpu.zeros([3, 4]), { activation: "sillu" as never })).toThrow(/sillu/);
  });
});

describe("linear", () => {
  it("is x W^T + b over any leading axes, with gradients", async () => {
    await checkOp(
      device.gpu,
      (x, w, b) => linear(x, w, b),
      (x, w, b) => {
        const out = new Float64Array(2 * 3 * 5);
        for (let r = 0; r < 6; r++)
          for (let j = 0; j < 5; j++) {
            let sum = b[j] ?? 0;
            for (let k = 0; k < 4; k++) sum += (x[r * 4 + k] ?? 0) * (w[j * 4 + k] ?? 0);
            out[r * 5 + j] = sum;
          }
        return out;
      },
      [operand([2, 3, 4], 1), operand([5, 4], 2), operand([5], 3)],
    );
  });

  it("a fused activation has the gradient of the separate one", async () => {
    const { gpu } = device;
    const x = gpu.tensor(numbers(24, 1), [6, 4]);
    const w = gpu.tensor(numbers(20, 2), [5, 4]);
    const g = gpu.tensor(numbers(30, 3), [6, 5]);
    const fused = vjp(() => [linear(x, w, undefined, { activation: "silu" })], [x, w]).pullback([g]);
    const separate = vjp(() => [silu(linear(x, w))], [x, w]).pullback([g]);
    for (const i of [0, 1]) expect(await fused[i]?.read()).toEqual(await separate[i]?.read());
  });

  it("a few rows: with and without subgroups, more columns than a grid has workgroups for", async () => {
    const gpus = [device.gpu, await openDevice({ features: { subgroups: false }, fillWithNaN: true })];
    for (const gpu of gpus)
      for (const [M, N, K] of [
        [1, 1, 1],
        [2, 70, 65],
        [3, 33, 256],
        [4, 130, 36],
        // Above four times the workgroups along a side.
        [1, 262_157, 5],
      ] as const) {
        const [x, w, b] = [numbers(M * K, 1), numbers(N * K, 2), numbers(N, 3)];
        const y = gpu.scope(() => linear(gpu.tensor(x, [M, K]), gpu.tensor(w, [N, K]), gpu.tensor(b, [N])));
        const sums = reference({ M, N, K, transposeB: true })(x, w).map((z, i) => z + b[i % N]!);
        expect(relativeError(await y.read(), sums), `${M}, ${N}, ${K}`).toBeLessThan(3e-6);
        y.dispose();
      }
    gpus[1]!.destroy();
  });

  it("refuses a width that is not the weight's", () => {
    const { gpu } = device;
    expect(() => linear(gpu.zeros([2, 3]), gpu.zeros([5, 4]))).toThrow(/last axis must be 4/);
  });
});
