import { describe, expect, it } from "vitest";
import {
  associativeScan,
  cast,
  causalConv1d,
  cumsum,
  DTypeError,
  e,
  linearRecurrence,
  ShapeError,
  vjp,
  type Tensor,
} from "../index.js";
import { checkOp, numbers, operand, relativeError, useGpu } from "../test-support.js";

const device = useGpu();

describe("scans", () => {
  it("the exclusive sum loses nothing to a difference of sums", async () => {
    const { gpu } = device;
    const x = gpu.tensor([1, 1e8, 3, -1e8, 5], [5]);
    expect([...(await cumsum(x, { exclusive: true }).read())]).toEqual([0, 1, 1e8, 1e8, 0]);
    expect([...(await cumsum(gpu.tensor([1e8, 1], [2]), { exclusive: true, reverse: true }).read())]).toEqual(
      [1, 0],
    );
    expect([...(await cumsum(gpu.tensor([Infinity, 1, 2], [3]), { exclusive: true }).read())]).toEqual([
      0,
      Infinity,
      Infinity,
    ]);
    for (const reverse of [false, true])
      for (const axis of [0, 1])
        await checkOp(
          gpu,
          (t) => cumsum(t, { exclusive: true, reverse, axis }),
          (t) =>
            t.map((_, i) => {
              const [r, c] = [Math.floor(i / 4), i % 4];
              let total = 0;
              for (let j = 0; j < (axis === 0 ? 3 : 4); j++)
                if (reverse ? j > (axis === 0 ? r : c) : j < (axis === 0 ? r : c))
                  total += axis === 0 ? t[4 * j + c]! : t[4 * r + j]!;
              return total;
            }),
          [operand([3, 4], 5)],
        );
    expect(cumsum(gpu.zeros([2, 0]), { exclusive: true }).shape).toEqual([2, 0]);
  });

  const running = (extent: number, inner: number, f: (column: number[]) => number[]) => (x: Float64Array) => {
    const out = new Float64Array(x.length);
    for (let o = 0; o < x.length / (extent * inner); o++)
      for (let i = 0; i < inner; i++) {
        const column = f(Array.from({ length: extent }, (_, t) => x[(o * extent + t) * inner + i]!));
        column.forEach((v, t) => (out[(o * extent + t) * inner + i] = v));
      }
    return out;
  };
  const sums = (column: number[]): number[] => {
    let s = 0;
    return column.map((v) => (s += v));
  };

  it("cumsum along any axis, exclusive and reversed, with gradients", async () => {
    const x = operand([2, 5, 3], 1);
    await checkOp(device.gpu, (t) => cumsum(t, { axis: 1 }), running(5, 3, sums), [x]);
    await checkOp(
      device.gpu,
      (t) => cumsum(t, { axis: 1, exclusive: true }),
      running(5, 3, (c) => sums(c).map((v, i) => v - c[i]!)),
      [x],
    );
    await checkOp(
      device.gpu,
      (t) => cumsum(t, { axis: -1, reverse: true }),
      running(3, 1, (c) => sums([...c].reverse()).reverse()),
      [x],
    );
  });

  it.each([129, 1000, 5003])("chunks an axis of %i", async (n) => {
    const { gpu } = device;
    const x = numbers(n, n);
    const y = gpu.scope(() => cumsum(gpu.tensor(x, [n])));
    expect(relativeError(await y.read(), sums([...x]))).toBeLessThan(1e-5);
    const z = gpu.scope(() => cumsum(gpu.tensor(x, [n]), { reverse: true }));
    expect(relativeError(await z.read(), sums([...x].reverse()).reverse())).toBeLessThan(1e-5);
  });

  it("linearRecurrence is h = a h + b, with gradients through both", async () => {
    const a = operand([2, 7, 2], 1);
    const b = operand([2, 7, 2], 2);
    const reference = (av: Float64Array, bv: Float64Array): Float64Array => {
      const out = new Float64Array(bv.length);
      for (let o = 0; o < 2; o++)
        for (let i = 0; i < 2; i++) {
          let h = 0;
          for (let t = 0; t < 7; t++) {
            const at = (o * 7 + t) * 2 + i;
            out[at] = h = av[at]! * h + bv[at]!;
          }
        }
      return out;
    };
    await checkOp(device.gpu, (x, y) => linearRecurrence(x, y, { axis: 1 }), reference, [a, b]);
  });

  it("takes an operation that does not commute", async () => {
    // Affine maps x -> a x + b under composition; long enough to be chunked.
    const { gpu } = device;
    const n = 700;
    const affine = associativeScan("affine", ["a", "b"], (l, r) => [
      e.mul(r[0]!, l[0]!),
      e.add(e.mul(r[0]!, l[1]!), r[1]!),
    ]);
    const a = numbers(n, 1).map((x) => Math.fround(1 + 0.1 * x));
    const b = numbers(n, 2);
    const [, out] = gpu.scope(() => affine([gpu.tensor(a, [n]), gpu.tensor(b, [n])]));
    let h = 0;
    const expected = b.map((v, t) => (h = a[t]! * h + v));
    expect(relativeError(await out!.read(), expected)).toBeLessThan(1e-5);
  });

  it("refuses tensors of different shapes", () => {
    const { gpu } = device;
    expect(() => linearRecurrence(gpu.zeros([3]), gpu.zeros([4]))).toThrow(ShapeError);
  });
});

describe("causalConv1d", () => {
  const [B, T, D, K] = [2, 6, 3, 4];
  const reference = (
    x: Float64Array,
    w: Float64Array,
    bias: Float64Array,
    state: Float64Array,
  ): Float64Array => {
    const out = new Float64Array(B * T * D);
    for (let b = 0; b < B; b++)
      for (let t = 0; t < T; t++)
        for (let d = 0; d < D; d++) {
          let y = bias[d]!;
          for (let j = 0; j < K; j++) {
            const s = t - K + 1 + j;
            y +=
              w[d * K + j]! * (s < 0 ? state[(b * (K - 1) + s + K - 1) * D + d]! : x[(b * T + s) * D + d]!);
          }
          out[(b * T + t) * D + d] = y;
        }
    return out;
  };

  it("convolves with a state, with gradients of everything", async () => {
    await checkOp(
      device.gpu,
      (x, weight, bias, state) => causalConv1d(x, weight, { bias, state }).out,
      reference,
      [operand([B, T, D], 1), operand([D, K], 2), operand([D], 3), operand([B, K - 1, D], 4)],
    );
  });

  it("convolves in f16, and in f16 with weights of f32, with gradients in the dtype of each", async () => {
    const { gpu } = device;
    const operands = [operand([B, T, D], 1), operand([D, K], 2), operand([D], 3), operand([B, K - 1, D], 4)];
    const run = (x: Tensor, weight: Tensor, bias: Tensor, state: Tensor): Tensor =>
      causalConv1d(x, weight, { bias, state }).out;
    const all = operands.map((o) => cast(cast(gpu.tensor(o.data, o.shape), "f16"), "f32"));
    const [x, weight, bias, state] = all as [Tensor, Tensor, Tensor, Tensor];
    const grad = cast(gpu.tensor(numbers(B * T * D, 9), [B, T, D]), "f16");
    const exact = vjp(() => [run(x, weight, bias, state)], all);
    const expected = exact.pullback([cast(grad, "f32")]);
    for (const [weights, types] of [
      ["f16", ["f16", "f16", "f16", "f16"]],
      ["f32", ["f16", "f32", "f32", "f16"]],
    ] as const) {
      const halves = [cast(x, "f16"), cast(weight, weights), cast(bias, weights), cast(state, "f16")];
      const half = vjp(() => [run(...(halves as [Tensor, Tensor, Tensor, Tensor]))], halves);
      const got = half.pullback([grad]);
      expect(half.outputs[0]!.dtype).toBe("f16");
      expect(got.map((t) => t.dtype)).toEqual(types);
      for (const [i, t] of [half.outputs[0]!, ...got].entries()) {
        const want = i === 0 ? exact.outputs[0]! : expected[i - 1]!;
        expect(relativeError(await cast(t, "f32").read(), await want.read())).toBeLessThan(1e-3);
      }
    }
    expect(() => causalConv1d(x, weight, { state: cast(state, "f16") })).toThrow(DTypeError);
    expect(() => causalConv1d(x, weight, { activation: "silu" } as never)).toThrow(
      /unknown key "activation"/,
    );
  });

  it("continues from its state as one long sequence would", async () => {
    const { gpu } = device;
    const x = gpu.tensor(numbers(1 * 8 * 5, 1), [1, 8, 5]);
    const w = gpu.tensor(numbers(5 * 3, 2), [5, 3]);
    const whole = await causalConv1d(x, w).out.read();
    const first = causalConv1d(gpu.tensor((await x.read()).slice(0, 5), [1, 1, 5]), w);
    const rest = causalConv1d(gpu.tensor((await x.read()).slice(5), [1, 7, 5]), w, { state: first.state });
    expect([...(await first.out.read()), ...(await rest.out.read())]).toEqual([...whole]);
    expect([...(await rest.state.read())]).toEqual([...(await x.read()).slice(30)]);
  });
});
