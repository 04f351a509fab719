import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  ConfigError,
  derive,
  e,
  elementwise,
  input,
  openDevice,
  vjp,
  type Expr,
  type Gpu,
} from "../index.js";
import { evaluate } from "./evaluate.reference.js";

let gpu: Gpu;
beforeAll(async () => {
  gpu = await openDevice({ fillWithNaN: true });
});
afterAll(() => {
  gpu.destroy();
});

const range = (low: number, high: number): number[] =>
  Array.from({ length: 61 }, (_, i) => low + ((high - low) * (i + 0.37)) / 61);

/** Each function of one operand with a domain on which it is smooth. */
const unary: Record<string, { f: (x: Expr) => Expr; domain: number[] }> = {
  neg: { f: e.neg, domain: range(-3, 3) },
  exp: { f: e.exp, domain: range(-8, 8) },
  log: { f: e.log, domain: range(0.1, 9) },
  sqrt: { f: e.sqrt, domain: range(0.1, 9) },
  rsqrt: { f: e.rsqrt, domain: range(0.1, 9) },
  pow: { f: (x) => e.pow(x, 2.5), domain: range(0.2, 4) },
  square: { f: (x) => e.pow(x, 2), domain: range(-4, 4) },
  cube: { f: (x) => e.pow(x, 3), domain: range(-4, 4) },
  reciprocal: { f: (x) => e.pow(x, -1), domain: range(0.3, 4) },
  abs: { f: e.abs, domain: range(-3, 3) },
  tanh: { f: e.tanh, domain: range(-12, 12) },
  sigmoid: { f: e.sigmoid, domain: range(-30, 30) },
  softplus: { f: e.softplus, domain: range(-30, 30) },
  silu: { f: e.silu, domain: range(-30, 30) },
  gelu: { f: e.gelu, domain: range(-6, 6) },
  geluTanh: { f: e.geluTanh, domain: range(-6, 6) },
  mish: { f: e.mish, domain: range(-15, 15) },
  relu: { f: e.relu, domain: range(-3, 3) },
  erf: { f: e.erf, domain: range(-4, 4) },
  sin: { f: e.sin, domain: range(-6, 6) },
  cos: { f: e.cos, domain: range(-6, 6) },
  composed: {
    f: (x) => e.select(e.gt(x, 1), e.mul(x, e.sin(x)), e.div(e.exp(x), e.add(2, e.mul(x, x)))),
    domain: range(-3, 3),
  },
  extremes: { f: (x) => e.max(e.min(e.mul(2, x), 1.5), e.neg(x)), domain: range(-3, 3) },
};

describe("expressions", () => {
  it.each(Object.entries(unary))(
    "%s and its derivative match double precision",
    async (name, { f, domain }) => {
      const root = f(input("x"));
      const derivative = derive(root, ["x"], 1)[0] as Expr;
      const op = elementwise(`test_${name}`, ["x"], f);
      const x = gpu.tensor(domain, [domain.length]);
      const { outputs, pullback } = vjp(() => [op(x)], [x]);
      const [dx] = pullback([gpu.full([domain.length], 1)]);
      const y = await outputs[0]?.read();
      const slope = await dx?.read();
      domain.forEach((exact, i) => {
        const v = Math.fround(exact);
        const value = evaluate(root, { x: v });
        // Terms of order max(1, |x|) cancel in float32 (1 + erf, 1 - tanh^2), so that is the scale of the error.
        const scale = Math.max(1, Math.abs(v), Math.abs(value));
        expect(Math.abs((y?.[i] ?? NaN) - value) / scale, `${name}(${String(v)})`).toBeLessThan(1e-6);
        const h = 1e-6 * Math.max(1, Math.abs(v));
        const numeric = (evaluate(root, { x: v + h }) - evaluate(root, { x: v - h })) / (2 * h);
        const symbolic = evaluate(derivative, { x: v });
        expect(
          Math.abs(symbolic - numeric) / Math.max(0.1, Math.abs(numeric)),
          `${name}'(${String(v)})`,
        ).toBeLessThan(1e-6);
        expect(Math.abs((slope?.[i] ?? NaN) - symbolic) / Math.max(scale, Math.abs(symbolic))).toBeLessThan(
          2e-6,
        );
      });
    },
  );

  it("stay finite at extreme arguments", async () => {
    const x = gpu.tensor([-1e30, -200, -89, 89, 200, 1e30], [6]);
    for (const f of [e.tanh, e.sigmoid, e.softplus, e.silu, e.erf, e.gelu, e.mish]) {
      const op = elementwise("test_extreme", ["x"], f);
      const { outputs, pullback } = vjp(() => [op(x)], [x]);
      const [dx] = pullback([gpu.full([6], 1)]);
      expect([...((await outputs[0]?.read()) ?? [])].every(Number.isFinite)).toBe(true);
      expect([...((await dx?.read()) ?? [])].every(Number.isFinite)).toBe(true);
    }
  });

  it("fold constants and drop terms that vanish", () => {
    expect(e.add(2, 3)).toEqual(e.const(5));
    expect(e.mul(input("x"), 0)).toEqual(e.const(0));
    expect(e.neg(e.neg(input("x")))).toEqual(input("x"));
    expect(derive(e.const(4), ["x"], 1)).toEqual([undefined]);
  });

  it("refuse a NaN constant and repeated input names", () => {
    expect(() => elementwise("twice", ["x", "x"], e.add)).toThrow(ConfigError);
    const op = elementwise("nan", ["x"], (x) => e.add(x, NaN));
    expect(() => op(gpu.zeros([2]))).toThrow(/NaN/);
  });
});
