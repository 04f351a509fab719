import { expect } from "vitest";
import type { Gpu, Tensor } from "@x/kernels";
import { expectCausal, expectConstantMemory, expectSame, inPieces, random, rows } from "../test-support.js";
import type { SequenceState } from "./sequence_state.js";

/** What every layer offers: the whole sequence, or a chunk with a state. */
interface SequenceLayer {
  forward(
    x: Tensor,
    options?: { readonly state?: SequenceState | undefined; readonly residual?: Tensor | undefined },
  ): Tensor;
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
