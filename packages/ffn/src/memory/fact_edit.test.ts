import { describe, expect, it } from "vitest";
import { ConfigError, matmul, ShapeError, vjp, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, relativeError, useGpu } from "@x/testing";
import { multiply, solve, transpose } from "./fact_edit.reference.js";
import { keyCovariance } from "./key_covariance.js";
import { memit } from "./memit.js";
import { rome } from "./rome.js";
import { spdSolve } from "./spd_solve.js";

const device = useGpu();

/** Symmetric positive definite, with entries exact in float32. */
function covariance(n: number, seed: number): Float64Array {
  const x = numbers(n * n, seed);
  const c = multiply(x, transpose(x, n), n);
  for (let i = 0; i < n; i++) c[i * n + i]! += 0.1 * n;
  return c.map(Math.fround);
}
const minus = (a: Float64Array, b: ArrayLike<number>): Float64Array => a.map((v, i) => v - b[i]!);
const plus = (a: Float64Array, b: ArrayLike<number>): Float64Array => a.map((v, i) => v + b[i]!);

describe("spdSolve", () => {
  it.each([1, 5, 32, 33, 65, 150])("order %i, several columns, over blocks", async (n) => {
    const { gpu } = device;
    const [a, b] = [covariance(n, 1), numbers(n * 3, 2)];
    const x = await spdSolve(gpu.tensor(a, [n, n]), gpu.tensor(b, [n, 3])).read();
    expect(relativeError(x, solve(a, b, n))).toBeLessThan(2e-5);
  });

  it("gradients, for changes of A that keep it symmetric", async () => {
    const n = 6;
    await checkOp(
      device.gpu,
      // x x^T + 2 I keeps the matrix symmetric and positive definite whatever x is.
      (x, b) => spdSolve(keyCovariance(x, { mean: false }), b, { ridge: 2 }),
      (x, b) => {
        const a = multiply(transpose(x, n), x, 4);
        for (let i = 0; i < n; i++) a[i * n + i]! += 2;
        return solve(a, b, n);
      },
      [operand([4, n], 1), operand([n, 2], 2)],
    );
  });

  it("gives NaN for a matrix that is not positive definite, and refuses shapes", async () => {
    const { gpu } = device;
    const x = await spdSolve(gpu.tensor([1, 2, 2, 1], [2, 2]), gpu.tensor([1, 1], [2, 1])).read();
    expect(Array.from(x).some(Number.isNaN)).toBe(true);
    expect(() => spdSolve(gpu.zeros([2, 3]), gpu.zeros([2, 1]))).toThrow(ShapeError);
    expect(() => spdSolve(gpu.zeros([2, 2]), gpu.zeros([3, 1]))).toThrow(ShapeError);
    expect(() => spdSolve(gpu.zeros([2, 2]), gpu.zeros([2, 1]), { ridge: -1 })).toThrow(ConfigError);
  });
});

describe("rome", () => {
  it("meets the fact where the covariance is singular, and leaves W where the key is zero", async () => {
    const { gpu } = device;
    const key = gpu.tensor([1, 2, -1], [3]);
    const [w, value] = [gpu.tensor([1, 0, 2, -1, 1, 0], [2, 3]), gpu.tensor([3, -2], [2])];
    for (const covariance of [
      [0, 0, 0, 0, 0, 0, 0, 0, 0],
      [1, 1, 1, 1, 1, 1, 1, 1, 1],
      [1, 2, -1, 2, 4, -2, -1, -2, 1],
      [2, 0, 0, 0, 3, 0, 0, 0, 0],
    ]) {
      const edited = rome(w, { covariance: gpu.tensor(covariance, [3, 3]), key, value }).w;
      const made = await matmul(edited, key.reshape([3, 1])).read();
      expect(made[0], String(covariance)).toBeCloseTo(3, 4);
      expect(made[1], String(covariance)).toBeCloseTo(-2, 4);
      const facts = { keys: key.reshape([1, 3]), values: value.reshape([1, 2]) };
      const many = memit(w, { covariance: gpu.tensor(covariance, [3, 3]), ...facts }, { mode: "exact" });
      expect((await many.read()).every(Number.isFinite), String(covariance)).toBe(true);
    }
    const unit = gpu.tensor([1, 0, 0, 0, 1, 0, 0, 0, 1], [3, 3]);
    const zero = { covariance: unit, key: gpu.zeros([3]), value };
    expect(await rome(w, zero).w.read()).toEqual(await w.read());
    const run = vjp(() => [rome(w, zero).w], [w, zero.key, value]);
    for (const grad of run.pullback(run.outputs))
      expect((await grad.read()).every(Number.isFinite)).toBe(true);
  });

  it.each([0, 0.7])("ridge %d: the edited matrix, lambda and direction, with gradients", async (ridge) => {
    const [O, F] = [4, 7];
    const c = covariance(F, 3);
    const metric = c.map((v, i) => v + (i % (F + 1) === 0 ? ridge : 0));
    await checkOp(
      device.gpu,
      (w, key, value) => {
        const result = rome(w, { covariance: device.gpu.tensor(c, [F, F]), key, value }, { ridge });
        return [result.w, result.lambda, result.direction];
      },
      (w, key, value) => {
        const u = solve(metric, key, F);
        const scale = multiply(u, key, F)[0]!;
        const lambda = minus(Float64Array.from(value), multiply(w, key, F)).map((v) => v / scale);
        return [...plus(Float64Array.from(w), multiply(lambda, u, 1)), ...lambda, ...u];
      },
      [operand([O, F], 1), operand([F], 2), operand([O], 5)],
      { gradientTolerance: 5e-4 },
    );
  });

  it("meets W' key = value, also at 65 keys, and does not depend on the scale of C", async () => {
    const { gpu } = device;
    const [O, F] = [3, 65];
    const [w, key, value] = [numbers(O * F, 1), numbers(F, 2), numbers(O, 3)];
    const c = covariance(F, 4);
    const edit = (scale: number): Promise<ArrayLike<number>> =>
      rome(gpu.tensor(w, [O, F]), {
        covariance: gpu.tensor(
          c.map((v) => v * scale),
          [F, F],
        ),
        key: gpu.tensor(key, [F]),
        value: gpu.tensor(value, [O]),
      }).w.read();
    const edited = await edit(1);
    expect(relativeError(multiply(edited, key, F), value)).toBeLessThan(1e-5);
    expect(relativeError(await edit(1024), edited)).toBeLessThan(1e-5);
  });
});

describe("memit", () => {
  const reference =
    (c: Float64Array, F: number, lambda: number) =>
    (w: Float64Array, keys: Float64Array, values: Float64Array): Float64Array => {
      // W + R K^T (lambda C + K K^T)^-1
      const n = keys.length / F;
      const missing = minus(Float64Array.from(values), multiply(keys, transpose(w, F), F)); // [n, O]
      const metric = plus(
        c.map((v) => lambda * v),
        multiply(transpose(keys, F), keys, n),
      );
      const change = solve(metric, multiply(transpose(keys, F), missing, n), F); // [F, O]
      return plus(Float64Array.from(w), transpose(change, w.length / F));
    };

  it.each([
    [1, 0.5],
    [4, 2],
    [6, 1],
    [9, 1],
  ])("leastSquares with %i facts, lambda %d: value and gradients", async (n, lambda) => {
    const [O, F] = [3, 6];
    const c = covariance(F, 3);
    await checkOp(
      device.gpu,
      (w, keys, values) => memit(w, { covariance: device.gpu.tensor(c, [F, F]), keys, values }, { lambda }),
      reference(c, F, lambda),
      [operand([O, F], 1), operand([n, F], 2), operand([n, O], 4)],
      { gradientTolerance: 5e-4 },
    );
  });

  it("exact meets every fact, is the limit of leastSquares, and for one fact is rome", async () => {
    const { gpu } = device;
    const [O, F, n] = [5, 40, 7];
    const c = gpu.tensor(covariance(F, 3), [F, F]);
    const w = gpu.tensor(numbers(O * F, 1), [O, F]);
    const [k, v] = [numbers(n * F, 2), numbers(n * O, 4)];
    const edited = await memit(
      w,
      { covariance: c, keys: gpu.tensor(k, [n, F]), values: gpu.tensor(v, [n, O]) },
      { mode: "exact" },
    ).read();
    expect(relativeError(multiply(k, transpose(edited, F), F), v)).toBeLessThan(1e-4);
    const soft = reference(covariance(F, 3), F, 1e-9)(numbers(O * F, 1), k, v);
    expect(relativeError(edited, soft)).toBeLessThan(1e-4);
    const [key, value] = [k.slice(0, F), v.slice(0, O)];
    const one = await memit(
      w,
      { covariance: c, keys: gpu.tensor(key, [1, F]), values: gpu.tensor(value, [1, O]) },
      { mode: "exact" },
    ).read();
    const same = await rome(w, {
      covariance: c,
      key: gpu.tensor(key, [F]),
      value: gpu.tensor(value, [O]),
    }).w.read();
    expect(relativeError(one, same)).toBeLessThan(1e-5);
  });

  it("refuses what it cannot do", () => {
    const { gpu } = device;
    const facts = (n: number): { covariance: Tensor; keys: Tensor; values: Tensor } => ({
      covariance: gpu.zeros([4, 4]),
      keys: gpu.zeros([n, 4]),
      values: gpu.zeros([n, 2]),
    });
    const w = gpu.zeros([2, 4]);
    expect(() => memit(w, facts(5), { mode: "exact" })).toThrow(/5 facts for keys of 4/);
    expect(() => memit(w, facts(1), { mode: "exact", lambda: 2 })).toThrow(/lambda is given/);
    expect(() => memit(w, facts(1), { lambda: -1 })).toThrow(ConfigError);
    expect(() => memit(gpu.zeros([2, 5]), facts(1))).toThrow(ShapeError);
    expect(() => memit(w, facts(1), { mode: "hard" as never })).toThrow(/mode is "hard"/);
  });
});

describe("keyCovariance", () => {
  it("is the second moment, not the covariance", async () => {
    for (const mean of [true, false])
      await checkOp(
        device.gpu,
        (keys) => keyCovariance(keys, { mean }),
        (keys) => multiply(transpose(keys, 5), keys, 7).map((v) => (mean ? v / 7 : v)),
        [operand([7, 5], 1)],
      );
  });
});
