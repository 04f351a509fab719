import { describe, expect, it } from "vitest";
import { ACTIVATIONS, broadcastTo, e, elementwise, input, vjp, type Expr, type Tensor } from "../index.js";
import { evaluate } from "./evaluate.reference.js";
import { useGpu } from "../test-support.js";

const device = useGpu();

/** Each function with its limits: value and slope at -infinity and at +infinity. */
const LIMITS: Readonly<Record<string, readonly [(x: Expr) => Expr, readonly number[]]>> = {
  silu: [e.silu, [0, 0, Infinity, 1]],
  gelu: [e.gelu, [0, 0, Infinity, 1]],
  geluTanh: [e.geluTanh, [0, 0, Infinity, 1]],
  mish: [e.mish, [0, 0, Infinity, 1]],
  swish: [(x) => e.damp(x, e.sigmoid(e.mul(1.5, x))), [0, 0, Infinity, 1]],
  softplus: [e.softplus, [0, 0, Infinity, 1]],
  sigmoid: [e.sigmoid, [0, 0, 1, 0]],
  tanh: [e.tanh, [-1, 0, 1, 0]],
  erf: [e.erf, [-1, 0, 1, 0]],
  relu: [e.relu, [0, 0, Infinity, 1]],
  elu: [(x) => e.select(e.gt(x, 0), x, e.sub(e.exp(x), 1)), [-1, 0, Infinity, 1]],
};

describe("values and slopes at extremes", () => {
  it.each(Object.entries(LIMITS))("%s has its limits there", async (name, [f, limits]) => {
    const { gpu } = device;
    const [low, lowSlope, high, highSlope] = limits as [number, number, number, number];
    const sizes = [1e3, 1e10, 1e13, 1e20, 1e30, 3.4e38, Infinity];
    const xs = [...sizes.map((v) => -v), ...sizes];
    const op = elementwise(`limits_${name}`, ["x"], f);
    const x = gpu.tensor(xs);
    const { outputs, pullback } = vjp(() => [op(x)], [x]);
    const [slope] = pullback([gpu.full([xs.length], 1)]);
    const values = [...(await outputs[0]!.read())];
    const slopes = [...(await slope!.read())];
    xs.forEach((at, i) => {
      const limit = at < 0 ? low : high;
      const value = Number.isFinite(limit) ? limit : Math.fround(at);
      // + 0: a negative zero is zero.
      expect(values[i]! + 0, `${name}(${at})`).toBe(value);
      expect(slopes[i]! + 0, `${name}'(${at})`).toBe(at < 0 ? lowSlope : highSlope);
    });
  });

  it.each<[string, (a: Expr, b: Expr) => Expr]>([
    ["max", e.max],
    ["min", e.min],
    ["max(a, 1)", (a) => e.max(a, 1)],
    ["min(1, a)", (a) => e.min(1, a)],
    ["clamp", (a) => e.min(e.max(a, -1), 1)],
    ["clamp between tensors", (a, b) => e.min(e.max(a, b), e.add(b, 1))],
    ["relu", (a) => e.relu(a)],
    ["sign", (a) => e.sign(a)],
    ["sum of max and min", (a, b) => e.add(e.max(a, b), e.min(b, a))],
  ])("%s: NaN goes through, as in the reference evaluator, in single lanes and in four", async (name, f) => {
    const { gpu } = device;
    const some = [NaN, -Infinity, -2, 0, 1, 3, Infinity];
    const pairs = some.flatMap((a) => some.map((b) => [a, b] as const));
    const expected = pairs.map(([a, b]) => evaluate(f(input("a"), input("b")), { a, b }));
    const op = elementwise(`nan ${name}`, ["a", "b"], f);
    // 49 numbers end in a vector that is not full; a column that is spread over 3 takes the kernel of single lanes.
    const column = (i: 0 | 1): Tensor =>
      gpu.tensor(
        pairs.map((pair) => pair[i]),
        [pairs.length, 1],
      );
    const wide = await op(column(0), column(1)).read();
    const single = await op(column(0), broadcastTo(column(1), [pairs.length, 3])).read();
    pairs.forEach((pair, i) => {
      const what = `${name}(${pair.join(", ")})`;
      // + 0: a negative zero is zero.
      expect(wide[i]! + 0, what).toBe(expected[i]! + 0);
      expect(single[3 * i]! + 0, what).toBe(expected[i]! + 0);
    });
  });

  it("gradients of max, min and relu at NaN reach the operands", async () => {
    const { gpu } = device;
    const [a, b] = [gpu.tensor([NaN, 1, NaN, 1, 2, 1]), gpu.tensor([1, NaN, NaN, 2, 1, 1])];
    for (const [f, slopes] of [
      [e.max, [1, 1, 1, 0, 1, 0, 1, 1, 1, 1, 0, 1]],
      [e.min, [1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1]],
    ] as const) {
      const op = elementwise("extremeOfTwo", ["a", "b"], f);
      const grads = vjp(() => [op(a, b)], [a, b]).pullback([gpu.full([6], 1)]);
      expect([...(await grads[0]!.read()), ...(await grads[1]!.read())]).toEqual(slopes);
    }
  });

  it("every named activation keeps NaN, and small numbers in proportion", async () => {
    const { gpu } = device;
    for (const [name, f] of Object.entries(ACTIVATIONS)) {
      const op = elementwise(`tiny_${name}`, ["x"], f);
      const x = gpu.tensor([NaN, 1e-20, -1e-20]);
      const { outputs, pullback } = vjp(() => [op(x)], [x]);
      const [slope] = pullback([gpu.full([3], 1)]);
      const values = [...(await outputs[0]!.read())];
      expect(values[0], name).toBeNaN();
      expect(values.slice(1).every(Number.isFinite), name).toBe(true);
      const slopes = [...(await slope!.read())];
      // As in PyTorch: the slopes of identity and relu hold no number of their own, all others are NaN with x.
      if (name === "identity" || name === "relu") expect(slopes[0], name).toBe(1);
      else expect(slopes[0], name).toBeNaN();
      expect(slopes.slice(1).every(Number.isFinite), name).toBe(true);
    }
  });
});
