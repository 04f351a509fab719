/**
 * Checks for ops of your own: a float64 reference decides on the value, its central differences on the gradients.
 */
import { KernelsError } from "./base/errors.js";
import type { Gpu } from "./device/gpu.js";
import { vjp } from "./tensor/tape.js";
import type { Tensor } from "./tensor/tensor.js";
import { sizeOf } from "./base/validate.js";

function demand(error: number, tolerance: number, what: string): void {
  if (!(error < tolerance))
    throw new KernelsError("checkOp", `${what}: relative error ${error}; it must be below ${tolerance}`);
}

/** Deterministic numbers in [-1, 1], exact in float32. */
export function numbers(n: number, seed: number): Float64Array {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Float64Array.from({ length: n }, () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return Math.fround(state / 2 ** 31 - 1);
  });
}

export { sizeOf as product };

/** Largest |computed - expected| divided by the largest |expected| + 1e-6. */
export function relativeError(computed: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (computed.length !== expected.length) return Infinity;
  let scale = 0;
  let error = 0;
  for (let i = 0; i < expected.length; i++) {
    const [x = NaN, y = NaN] = [computed[i], expected[i]];
    scale = Math.max(scale, Math.abs(y));
    const difference = Math.abs(x - y);
    if (Number.isNaN(difference)) return Infinity;
    error = Math.max(error, difference);
  }
  return error / (scale + 1e-6);
}

export async function expectClose(
  actual: Tensor,
  expected: ArrayLike<number>,
  tolerance = 2e-5,
): Promise<void> {
  demand(relativeError(await actual.read(), expected), tolerance, "value");
}

export interface Operand {
  readonly shape: readonly number[];
  readonly data: Float64Array;
}

export const operand = (shape: readonly number[], seed: number): Operand => ({
  shape,
  data: numbers(sizeOf(shape), seed),
});

export interface CheckOptions {
  readonly tolerance?: number;
  readonly gradientTolerance?: number;
  readonly gradients?: boolean;
  readonly h?: number;
}

/**
 * Compare an op with a float64 reference: its outputs, and its gradients with central differences of the
 * reference along every input element.
 */
export async function checkOp(
  gpu: Gpu,
  op: (...inputs: Tensor[]) => Tensor | Tensor[],
  reference: (...inputs: Float64Array[]) => ArrayLike<number>,
  operands: readonly Operand[],
  { tolerance = 2e-5, gradientTolerance = 1e-4, gradients = true, h = 1e-4 }: CheckOptions = {},
): Promise<void> {
  const data = operands.map((o) => o.data);
  const expected = Float64Array.from(reference(...data));
  const tensors = operands.map((o) => gpu.tensor(o.data, o.shape));
  const flat = (out: Tensor | Tensor[]): Tensor[] => (Array.isArray(out) ? out : [out]);
  if (!gradients) {
    const outputs = gpu.scope(() => flat(op(...tensors)));
    const actual: number[] = [];
    for (const out of outputs) actual.push(...(await out.read()));
    demand(relativeError(actual, expected), tolerance, "value");
    for (const t of [...outputs, ...tensors]) t.dispose();
    return;
  }
  const run = vjp(() => flat(op(...tensors)), tensors);
  const actual: number[] = [];
  for (const out of run.outputs) actual.push(...(await out.read()));
  demand(relativeError(actual, expected), tolerance, "value");
  const weights = numbers(expected.length, 99);
  let at = 0;
  const cotangents = run.outputs.map((out) => gpu.tensor(weights.slice(at, (at += out.size)), out.shape));
  const grads = run.pullback(cotangents);
  const loss = (): number => {
    const out = reference(...data);
    let sum = 0;
    for (let i = 0; i < out.length; i++) sum += (out[i] ?? 0) * (weights[i] ?? 0);
    return sum;
  };
  for (const [index, grad] of grads.entries()) {
    const values = data[index] as Float64Array;
    const differences = values.map((value, i) => {
      values[i] = value + h;
      const up = loss();
      values[i] = value - h;
      const down = loss();
      values[i] = value;
      return (up - down) / (2 * h);
    });
    demand(relativeError(await grad.read(), differences), gradientTolerance, `gradient of input ${index}`);
  }
  for (const t of [...run.outputs, ...tensors, ...cotangents, ...grads]) t.dispose();
}
