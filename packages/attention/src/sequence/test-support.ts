import { expect } from "vitest";
import { vjp, type Gpu, type Tensor } from "@x/kernels";
import { numbers, relativeError, type Operand } from "@x/testing";
import { expectCausal, expectConstantMemory, expectSame, inPieces, random, rows } from "../test-support.js";
import { Tape, type Scalar } from "./state/exact.reference.js";
import type { SequenceOptions, SequenceState } from "./state/sequence_state.js";

/** What every layer offers: the whole sequence, or a chunk with a state. */
interface SequenceLayer {
  forward(x: Tensor, options?: SequenceOptions): Tensor;
  createState(options: { readonly batch: number }): SequenceState;
}

/** A layer decodes what it computes at once, whatever the pieces; it is causal; steps hold memory and its size. */
export async function expectDecodes(
  gpu: Gpu,
  layer: SequenceLayer,
  dim: number,
  bytes: number,
): Promise<void> {
  const x = random(gpu, [2, 19, dim], 1);
  const residual = random(gpu, [2, 19, dim], 2);
  const whole = layer.forward(x, { residual });
  const state = layer.createState({ batch: 2 });
  expect(state.bytes).toBe(bytes);
  for (const pieces of [
    [9, 1, 1, 8],
    [1, 18],
  ]) {
    let at = 0;
    const run = (piece: Tensor): Tensor => {
      const n = piece.shape[1]!;
      return layer.forward(piece, { state, residual: rows(residual, at, (at += n)) });
    };
    await expectSame(inPieces(gpu, x, pieces, run), whole);
    state.clear();
  }
  await expectCausal(gpu, x, 8, (y) => layer.forward(y));
  const one = rows(x, 0, 1);
  await expectConstantMemory(gpu, 6, () => layer.forward(one, { state }));
  state.dispose();
}

/**
 * Compare an op with a float64 reference where there are too many elements for a difference along each: its values,
 * and for each operand the slope along one random direction, which every element of the gradient enters.
 */
export async function checkSlopes(
  gpu: Gpu,
  op: (...inputs: Tensor[]) => Tensor[],
  reference: (...inputs: Float64Array[]) => ArrayLike<number>,
  operands: readonly Operand[],
): Promise<void> {
  const data = operands.map((o) => o.data);
  const tensors = operands.map((o) => gpu.tensor(o.data, o.shape));
  const run = vjp(() => op(...tensors), tensors);
  const values: number[] = [];
  for (const out of run.outputs) values.push(...(await out.read()));
  expect(relativeError(values, reference(...data))).toBeLessThan(1e-5);
  const weights = numbers(values.length, 99);
  let at = 0;
  const grads = run.pullback(
    run.outputs.map((out) => gpu.tensor(weights.slice(at, (at += out.size)), out.shape)),
  );
  const loss = (moved: Float64Array[]): number => {
    const out = reference(...moved);
    return weights.reduce((sum, w, i) => sum + w * out[i]!, 0);
  };
  const [h, slopes, sums]: [number, number[], number[]] = [1e-5, [], []];
  for (const [i, grad] of grads.entries()) {
    const direction = numbers(grad.size, 200 + i);
    const along = (step: number): number =>
      loss(data.map((x, j) => (j === i ? x.map((value, k) => value + step * direction[k]!) : x)));
    slopes.push((along(h) - along(-h)) / (2 * h));
    const values = await grad.read();
    const scale = Math.hypot(...values);
    sums.push(direction.reduce((sum, d, k) => sum + d * values[k]!, 0) / scale);
    slopes[i]! /= scale;
  }
  sums.forEach((sum, i) => {
    expect(Math.abs(sum - slopes[i]!), `gradient of input ${i}`).toBeLessThan(1e-4);
  });
}

/** A recurrence: its GPU form, and its formula over scalars. Operands are named. */
export interface Recurrence {
  readonly gpu: (t: Readonly<Record<string, Tensor>>) => Tensor[];
  readonly exact: (tape: Tape, t: Readonly<Record<string, readonly Scalar[]>>) => Scalar[];
  readonly operands: Readonly<Record<string, Operand>>;
  /** Relative to the sum of the absolute values of the terms; default 3e-5. */
  readonly tolerance?: number;
}

/** What a tape's first variable stands for. */
export const zero: Scalar = { index: 0, value: 0, size: 0 };
export const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
export const randomData = (shape: readonly number[], seed: number, size = 1, shift = 0): Operand => ({
  shape,
  data: Float64Array.from(
    numbers(
      shape.reduce((a, b) => a * b, 1),
      seed,
    ),
    (x) => Math.fround(size * x + shift),
  ),
});
/** The given values over and over. */
export const cycle = (shape: readonly number[], values: readonly number[]): Operand => ({
  shape,
  data: Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) =>
    Math.fround(values[i % values.length]!),
  ),
});

/** Exponents of decays: what a token keeps is e^-x. */
export const strengths = {
  weak: [1e-6, 1e-4, 3e-6],
  strong: [20, 89, 1e3],
  mixed: [1e-6, 0.3, 50, 1e-3, 4, 1e3, 90],
} as const;
export type Strength = keyof typeof strengths;

/**
 * Compare a recurrence, values and the gradient of every operand, with exact derivatives: an element may be off by what
 * rounding makes of the terms that it is the sum of.
 */
export async function checkExact(
  gpu: Gpu,
  { gpu: run, exact, operands, tolerance = 3e-5 }: Recurrence,
): Promise<void> {
  const names = Object.keys(operands);
  const tensors = Object.values(operands).map((o) => gpu.tensor(o.data, o.shape));
  const { outputs, pullback } = vjp(
    () => run(Object.fromEntries(names.map((name, i) => [name, tensors[i]!]))),
    tensors,
  );
  const tape = new Tape();
  tape.variable(0); // `zero`
  const scalars = Object.fromEntries(
    names.map((name) => [name, Array.from(operands[name]!.data, (x) => tape.variable(x))]),
  );
  const expected = exact(tape, scalars);
  const values = (await Promise.all(outputs.map((t) => t.read()))).flatMap((x) => Array.from(x));
  expect(values.length).toBe(expected.length);
  const top = Math.max(1, ...expected.map((x) => Math.abs(x.value)));
  values.forEach((x, i) => {
    expect(Math.abs(x - expected[i]!.value), `output ${i}: ${x}, exact ${expected[i]!.value}`).toBeLessThan(
      1e-5 * top,
    );
  });
  const weights = numbers(expected.length, 77);
  const { slope, size } = tape.gradients(expected, weights);
  let at = 0;
  const gradients = pullback(outputs.map((t) => gpu.tensor(weights.slice(at, (at += t.size)), t.shape)));
  for (const [i, gradient] of gradients.entries()) {
    const got = await gradient.read();
    scalars[names[i]!]!.forEach(({ index }, j) => {
      expect(
        Math.abs(got[j]! - slope[index]!),
        `d${names[i]!}[${j}]: ${got[j]!}, exact ${slope[index]!}, of terms ${size[index]!}`,
      ).toBeLessThanOrEqual(tolerance * size[index]! + 1e-30);
    });
  }
}
