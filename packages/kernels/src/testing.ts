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

/** A bound for all, or one for each name. */
type Tolerance = number | Readonly<Record<string, number>>;

export interface CheckOptions {
  /** Relative error of each output, of its own largest element. */
  readonly tolerance?: Tolerance;
  /** Relative error of the gradient of each input, of its own largest element. */
  readonly gradientTolerance?: Tolerance;
  readonly gradients?: boolean;
  /** Step of the central differences. */
  readonly h?: number;
  /** Names of the outputs, in order; by default "output 0", "output 1", .. */
  readonly outputs?: readonly string[];
  /** Names of the inputs, in order; by default "input 0", "input 1", .. */
  readonly inputs?: readonly string[];
}

const boundOf = (tolerance: Tolerance, name: string, usual: number): number =>
  typeof tolerance === "number" ? tolerance : (tolerance[name] ?? usual);

/** @throws KernelsError naming the output that is wrong */
async function checkOutputs(
  outputs: readonly Tensor[],
  expected: Float64Array,
  tolerance: Tolerance,
  names: readonly string[] | undefined,
): Promise<void> {
  const total = outputs.reduce((n, out) => n + out.size, 0);
  if (total !== expected.length)
    throw new KernelsError(
      "checkOp",
      `the reference gives ${expected.length} numbers; the outputs have ${total}`,
    );
  let at = 0;
  for (const [i, out] of outputs.entries()) {
    const name = names?.[i] ?? `output ${i}`;
    const part = expected.subarray(at, (at += out.size));
    demand(relativeError(await out.read(), part), boundOf(tolerance, name, OUTPUT), name);
  }
}

const [OUTPUT, GRADIENT] = [2e-5, 1e-4];

/**
 * Compare an op with a float64 reference: each of its outputs, and the gradient of each input with central differences of
 * the reference along every element.
 *
 * @throws KernelsError naming the output or the input whose numbers are further off than its tolerance
 */
export async function checkOp(
  gpu: Gpu,
  op: (...inputs: Tensor[]) => Tensor | Tensor[],
  reference: (...inputs: Float64Array[]) => ArrayLike<number>,
  operands: readonly Operand[],
  {
    tolerance = OUTPUT,
    gradientTolerance = GRADIENT,
    gradients = true,
    h = 1e-4,
    outputs,
    inputs,
  }: CheckOptions = {},
): Promise<void> {
  const data = operands.map((o) => o.data);
  const expected = Float64Array.from(reference(...data));
  const tensors = operands.map((o) => gpu.tensor(o.data, o.shape));
  const flat = (out: Tensor | Tensor[]): Tensor[] => (Array.isArray(out) ? out : [out]);
  if (!gradients) {
    const results = gpu.scope(() => flat(op(...tensors)));
    await checkOutputs(results, expected, tolerance, outputs);
    for (const t of [...results, ...tensors]) t.dispose();
    return;
  }
  const run = vjp(() => flat(op(...tensors)), tensors);
  await checkOutputs(run.outputs, expected, tolerance, outputs);
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
    const name = inputs?.[index] ?? `input ${index}`;
    const bound = boundOf(gradientTolerance, name, GRADIENT);
    demand(relativeError(await grad.read(), differences), bound, `gradient of ${name}`);
  }
  for (const t of [...run.outputs, ...tensors, ...cotangents, ...grads]) t.dispose();
}
