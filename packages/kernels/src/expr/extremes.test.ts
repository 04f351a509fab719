import { describe, expect, it } from "vitest";
import { ACTIVATIONS, e, elementwise, vjp, type Expr } from "../index.js";
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

  it("every named activation keeps NaN, and small numbers in proportion", async () => {
    const { gpu } = device;
    for (const [name, f] of Object.entries(ACTIVATIONS)) {
      const op = elementwise(`tiny_${name}`, ["x"], f);
      const x = gpu.tensor([NaN, 1e-20, -1e-20]);
      const { outputs, pullback } = vjp(() => [op(x)], [x]);
      const [slope] = pullback([gpu.full([3], 1)]);
      const values = [...(await outputs[0]!.read())];
      if (name !== "relu" && name !== "squaredRelu") expect(values[0], name).toBeNaN();
      expect(values.slice(1).every(Number.isFinite), name).toBe(true);
      expect([...(await slope!.read())].slice(1).every(Number.isFinite), name).toBe(true);
    }
  });
});
