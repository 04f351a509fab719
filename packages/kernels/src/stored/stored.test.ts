import { describe, expect, it } from "vitest";
import {
  add,
  cast,
  dequantize,
  DTypeError,
  embedding,
  groupedMatmul,
  linear,
  linearCrossEntropy,
  matmul,
  quantize,
  ShapeError,
  sum,
  toHalfBits,
  vjp,
  type Gpu,
  type StoredType,
  type Tensor,
} from "../index.js";
import { expectClose, numbers, useGpu } from "../test-support.js";
import { BLOCK_REFERENCES, blockValues, type BlockType } from "./blocks.reference.js";

const BLOCKS = Object.keys(BLOCK_REFERENCES) as BlockType[];

/** Bytes at random; the halves of a block's scales are small numbers of either sign, as a quantiser's are. */
function randomBlocks(type: BlockType, count: number): Uint8Array {
  const { bytes: stride } = BLOCK_REFERENCES[type];
  const bytes = Uint8Array.from(numbers(count * stride, 7), (x) => Math.floor((x + 1) * 128));
  const scales = numbers(2 * count, 8);
  const places = type === "q6_k" ? [208] : /_1|4_k|5_k/.test(type) ? [0, 2] : [0];
  for (let i = 0; i < count; i++)
    for (const [j, place] of places.entries()) {
      const bits = toHalfBits(scales[2 * i + j]! * 0.02);
      bytes[i * stride + place] = bits & 255;
      bytes[i * stride + place + 1] = bits >> 8;
    }
  return bytes;
}

interface Stored {
  readonly tensor: Tensor;
  readonly values: Float64Array;
}

/** Numbers as f32, without the sign of zeros. */
const plain = (values: ArrayLike<number>): number[] => Array.from(values, (x) => Math.fround(x) + 0);

/** A tensor of random elements in a form, and the numbers that they stand for. */
function make(gpu: Gpu, type: StoredType | "f16", shape: readonly number[]): Stored {
  const size = shape.reduce((a, b) => a * b, 1);
  if (type === "bf16" || type === "f16") {
    // Numbers of eight bits are exact in either.
    const values = numbers(size, 5).map((x) => Math.round(x * 128) / 128);
    return { tensor: gpu.tensor(values, shape, type), values };
  }
  const bytes = randomBlocks(type, size / BLOCK_REFERENCES[type].size);
  return { tensor: gpu.fromBytes(bytes, shape, type), values: blockValues(type, bytes) };
}

const product = (x: Float64Array, w: ArrayLike<number>, M: number, N: number, K: number): Float64Array =>
  Float64Array.from({ length: M * N }, (_, i) => {
    let total = 0;
    for (let k = 0; k < K; k++) total += x[Math.floor(i / N) * K + k]! * w[(i % N) * K + k]!;
    return total;
  });

/** Width of rows for a form: two blocks, or one that no vector divides. */
const widthOf = (type: StoredType | "f16"): number =>
  type === "bf16" || type === "f16" ? 96 : BLOCK_REFERENCES[type].size === 256 ? 256 : 96;

const TYPES = ["bf16", "f16", ...BLOCKS] as const;
/** Forms of each kind; the others share their loads with these, and compiling a product takes a second. */
const KINDS = ["bf16", "f16", "q8_0", "q4_0"] as const;

describe("blocks on the host", () => {
  it.each(BLOCKS)("%s: dequantize gives the format's numbers", (type) => {
    const bytes = randomBlocks(type, 5);
    const got = dequantize(bytes, type);
    expect(plain(got)).toEqual(plain(blockValues(type, bytes)));
  });

  it("quantize keeps what a form holds, and its error is at most half a step", () => {
    for (const [type, levels] of [
      ["q8_0", 127],
      ["q4_0", 8],
    ] as const) {
      const data = numbers(320, 3);
      const got = dequantize(quantize(data, type), type);
      for (let i = 0; i < data.length; i++) {
        const block = data.slice(i - (i % 32), i - (i % 32) + 32);
        const largest = Math.max(...block.map(Math.abs));
        // The extreme of the other sign of q4_0 is 7 steps and not 8: up to a whole step.
        const steps = type === "q4_0" ? 1.01 : 0.51;
        expect(Math.abs(got[i]! - data[i]!)).toBeLessThan((steps * largest) / levels + 1e-3 * largest);
      }
      expect(plain(dequantize(quantize(got, type), type))).toEqual(plain(got));
    }
  });

  it("quantize rounds as the format's reference implementation", () => {
    const data = new Float32Array(32);
    data.set([-127, 126.5, 0.5, -0.5, 1.5, 2.4999]);
    expect([...quantize(data, "q8_0").subarray(0, 8)]).toEqual([0, 0x3c, 129, 127, 1, 255, 2, 2]);
    data.fill(0).set([-8, 7, 7.5, 0.49, 0.5, -0.5, -0.51]);
    // Scale 1; quants floor(x + 8.5), at most 15; zeros are 8.
    expect([...quantize(data, "q4_0").subarray(0, 9)]).toEqual([
      0, 0x3c, 0x80, 0x8f, 0x8f, 0x88, 0x89, 0x88, 0x87,
    ]);
    expect([...quantize(new Float32Array(32), "q8_0")]).toEqual(new Array(34).fill(0));
  });

  it("refuses what is not whole blocks of finite numbers", () => {
    expect(() => quantize([1, 2, 3], "q8_0")).toThrow(ShapeError);
    expect(() => quantize(new Float32Array(32).fill(Infinity), "q4_0")).toThrow(/element 0 is Infinity/);
    expect(() => quantize(new Float32Array(32).fill(3e7), "q8_0")).toThrow(/scale/);
    expect(() => quantize(new Float32Array(32), "q5_0" as never)).toThrow(/q8_0, q4_0/);
    expect(() => dequantize(new Uint8Array(33), "q8_0")).toThrow(/34/);
    expect(() => dequantize(new Uint8Array(34), "bf16" as never)).toThrow(/q6_k/);
  });
});

for (const [label, features] of [
  ["with the adapter's features", {}],
  ["without shader-f16 and subgroups", { f16: false, subgroups: false }],
] as const)
  describe(`stored weights ${label}`, () => {
    const device = useGpu({ features });

    it.each(TYPES)("%s: read, cast and embedding give the stored numbers", async (type) => {
      const { gpu } = device;
      const K = widthOf(type);
      const { tensor, values } = make(gpu, type, [3, K]);
      const expected = plain(values);
      expect(plain(await tensor.read())).toEqual(expected);
      expect(plain(await cast(tensor, "f32").read())).toEqual(expected);
      const rows = await embedding(tensor, gpu.tensor([2, 0, -1, 3], [2, 2], "i32")).read();
      expect(plain(rows.subarray(0, 2 * K))).toEqual([...expected.slice(2 * K), ...expected.slice(0, K)]);
      expect([...rows.subarray(2 * K)].every(Number.isNaN)).toBe(true);
    });

    it.each(TYPES)("%s: linear of one row", async (type) => {
      const { gpu } = device;
      const [N, K] = [37, widthOf(type)];
      const { tensor, values } = make(gpu, type, [N, K]);
      const x = numbers(K, 1);
      await expectClose(linear(gpu.tensor(x, [K]), tensor), product(x, values, 1, N, K), 5e-6);
    });

    it.each(KINDS)("%s: linear of few rows and many, with bias, activation and residual", async (type) => {
      const { gpu } = device;
      const K = widthOf(type);
      const N = 37;
      for (const M of [2, 40]) {
        const { tensor, values } = make(gpu, type, [N, K]);
        const [x, bias, residual] = [numbers(M * K, 1), numbers(N, 2), numbers(M * N, 3)];
        const expected = product(x, values, M, N, K).map(
          (z, i) => Math.max(z + bias[i % N]!, 0) + residual[i]!,
        );
        const options = { activation: "relu", residual: gpu.tensor(residual, [M, N]) } as const;
        const got = linear(gpu.tensor(x, [M, K]), tensor, gpu.tensor(bias, [N]), options);
        await expectClose(got, expected, 5e-6);
      }
    });

    it.each(["f16", "q4_0"] as const)(
      "%s: the gradient of x flows through a weight that is constant",
      async (type) => {
        const { gpu } = device;
        const [M, N, K] = [5, 8, widthOf(type)];
        const { tensor, values } = make(gpu, type, [N, K]);
        const [x, g] = [gpu.tensor(numbers(M * K, 1), [M, K]), numbers(M * N, 2)];
        const { pullback } = vjp(() => [linear(x, tensor)], [x]);
        const transposed = Float64Array.from(
          { length: K * N },
          (_, i) => values[(i % N) * K + Math.floor(i / N)]!,
        );
        await expectClose(pullback([gpu.tensor(g, [M, N])])[0]!, product(g, transposed, M, K, N), 5e-6);
      },
    );

    it.each(["bf16", "q4_0"] as const)("%s: groupedMatmul meets each group's matrix", async (type) => {
      const { gpu } = device;
      const [N, K] = [12, widthOf(type)];
      const { tensor, values } = make(gpu, type, [3, N, K]);
      const [x, starts] = [numbers(7 * K, 1), [0, 4, 4, 7]];
      const got = groupedMatmul(gpu.tensor(x, [7, K]), tensor, gpu.tensor(starts, [4], "u32"));
      const expected = [0, 2].flatMap((e) => [
        ...product(
          x.slice(starts[e]! * K, starts[e + 1]! * K),
          values.slice(e * N * K, (e + 1) * N * K),
          starts[e + 1]! - starts[e]!,
          N,
          K,
        ),
      ]);
      await expectClose(got, expected, 5e-6);
    });

    it("a width that is no multiple of a vector, or of a block of 32", async () => {
      const { gpu } = device;
      for (const type of ["bf16", "f16"] as const)
        for (const K of [7, 44]) {
          const { tensor, values } = make(gpu, type, [5, K]);
          expect(plain(await embedding(tensor, gpu.tensor([4], [1], "i32")).read())).toEqual(
            plain(values.slice(4 * K)),
          );
          for (const M of [1, 9])
            await expectClose(
              linear(gpu.tensor(numbers(M * K, 1), [M, K]), tensor),
              product(numbers(M * K, 1), values, M, 5, K),
              5e-6,
            );
        }
    });

    it("a long row, and a matrix that is not transposed", async () => {
      const { gpu } = device;
      const [N, K] = [6, 2080];
      const { tensor, values } = make(gpu, "q4_0", [N, K]);
      const x = numbers(2 * K, 1);
      await expectClose(linear(gpu.tensor(x, [2, K]), tensor), product(x, values, 2, N, K), 5e-6);
      const y = numbers(9 * N, 2);
      const transposed = Float64Array.from(
        { length: K * N },
        (_, i) => values[(i % N) * K + Math.floor(i / N)]!,
      );
      await expectClose(matmul(gpu.tensor(y, [9, N]), tensor), product(y, transposed, 9, K, N), 5e-6);
    });

    it("a tied head: embedding, then linearCrossEntropy with the same table", async () => {
      const { gpu } = device;
      const [rows, K, vocab] = [6, 64, 20];
      const { tensor } = make(gpu, "q8_0", [vocab, K]);
      const wide = cast(tensor, "f32");
      const ids = gpu.tensor([1, 19, 0, 7, 7, 2], [rows], "i32");
      const x = gpu.tensor(numbers(rows * K, 1), [rows, K]);
      const run = (head: Tensor): Tensor[] => {
        const { outputs, pullback } = vjp(
          () => [linearCrossEntropy(add(x, embedding(head, ids)), head, ids)],
          [x],
        );
        return [...outputs, ...pullback([gpu.full([], 1)])];
      };
      const [own, expected] = [run(tensor), run(wide)];
      for (const [i, t] of own.entries()) await expectClose(t, await expected[i]!.read(), 5e-6);
    });

    it("reshape keeps rows, write replaces numbers, and memory counts the stored bytes", async () => {
      const { gpu } = device;
      const before = gpu.memory().liveBytes;
      const t = gpu.zeros([1]);
      t.dispose();
      const { tensor, values } = make(gpu, "q4_0", [64, 64, 1024]);
      const bytes = (64 * 64 * 1024 * 18) / 32;
      expect(tensor.byteLength).toBe(bytes);
      expect(gpu.memory().liveBytes - before).toBe(bytes);
      const flat = tensor.reshape([-1, 1024]);
      expect(plain(await embedding(flat, gpu.tensor([70], [1], "i32")).read())).toEqual(
        plain(values.slice(70 * 1024, 71 * 1024)),
      );
      expect(() => tensor.reshape([-1, 16])).toThrow(/multiple of 32/);
      for (const x of [tensor, flat]) x.dispose();
      const small = gpu.tensor(new Float32Array(64), [2, 32], "q8_0");
      small.write(new Float32Array(64).fill(127));
      expect([...(await small.read())]).toEqual(new Array(64).fill(127));
      small.dispose();
    });

    it("other ops refuse it, saying which take it; no gradient is asked of it", () => {
      const { gpu } = device;
      const x = gpu.zeros([2, 32]);
      const types: readonly (StoredType | "f16")[] = gpu.features.f16
        ? ["bf16", "q4_0"]
        : ["bf16", "q4_0", "f16"];
      for (const type of types) {
        const w = gpu.tensor(new Float32Array(64), [2, 32], type);
        for (const use of [
          () => add(x, w),
          () => sum(w),
          () => matmul(w, x, { transposeB: true }),
          () => linear(x, x, w.reshape([64])),
          () => vjp(() => [linear(x, w)], [w]),
        ])
          expect(use).toThrow(DTypeError);
        expect(() => add(x, w)).toThrow(new RegExp(`${type}.*only stored.*linear.*embedding`));
        expect(() => matmul(gpu.zeros([32, 2]), w, { transposeA: true, transposeB: true })).toThrow(
          /transposed/,
        );
        expect(() => gpu.zeros([2, 32], type)).toThrow(DTypeError);
      }
      expect(() => gpu.tensor(new Float32Array(31), [31], "q4_0")).toThrow(ShapeError);
      expect(() => gpu.tensor(new Float32Array(256), [256], "q6_k")).toThrow(/fromBytes/);
      expect(() => gpu.fromBytes(new Uint8Array(18), [48], "q4_0")).toThrow(/multiple of 32/);
      expect(() => gpu.fromBytes(new Uint8Array(17), [32], "q4_0")).toThrow(/18/);
      expect(() => gpu.fromBytes(new Uint8Array(17), [32], "q3_k" as never)).toThrow(/q4_0/);
    });
  });
