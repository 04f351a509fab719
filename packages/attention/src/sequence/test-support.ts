import { expect } from "vitest";
import { vjp, type Gpu, type Tensor } from "@x/kernels";
import { numbers, relativeError, type Operand } from "@x/testing";
import { expectCausal, expectConstantMemory, expectSame, inPieces, random, rows } from "../test-support.js";
import type { SequenceOptions, SequenceState } from "./sequence_state.js";

/** What every layer offers: the whole sequence, or a chunk with a state. */
interface SequenceLayer {
  forward(x: Tensor, options?: SequenceOptions): Tensor;
  createState(gpu: Gpu, options: { readonly batch: number }): SequenceState;
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
  const state = layer.createState(gpu, { batch: 2 });
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
