import { expect, it } from "vitest";
import { normals } from "../measure/data.js";
import {
  LAYER,
  LAYER_PARAMETERS,
  LAYER_SHAPES,
  layerCache,
  layerForward,
  layerLoss,
  type LayerWeights,
} from "./decoder_layer.js";

const weights = (): LayerWeights =>
  Object.fromEntries(
    LAYER_PARAMETERS.map((name, i) => {
      const shape = LAYER_SHAPES[name];
      const { data } = normals(
        shape,
        i + 1,
        shape.length === 1 ? 0.1 : 1 / Math.sqrt(shape[1]!),
        shape.length === 1 ? 1 : 0,
      );
      return [name, Float64Array.from(data)];
    }),
  ) as unknown as LayerWeights;

it("the reference layer's gradients are those of finite differences", () => {
  const seq = 5;
  const x = normals([seq, LAYER.dim], 50).data;
  const target = normals([seq, LAYER.dim], 51).data;
  const w = weights();
  const { grads } = layerLoss(x, target, w);
  for (const name of LAYER_PARAMETERS) {
    const direction = normals(LAYER_SHAPES[name], 70).data;
    const loss = (step: number): number =>
      layerLoss(x, target, { ...w, [name]: Float64Array.from(w[name], (p, i) => p + step * direction[i]!) })
        .loss;
    const expected = (loss(1e-5) - loss(-1e-5)) / 2e-5;
    const slope = grads[name].reduce((sum, g, i) => sum + g * direction[i]!, 0);
    expect(Math.abs(slope - expected) / Math.abs(expected), name).toBeLessThan(1e-5);
  }
});

it("a token with a cache gives what the whole sequence gives at its place", () => {
  const { dim, kvHeads, headDim } = LAYER;
  const w = weights();
  const x = normals([3, dim], 50).data;
  const whole = layerForward(x, w);
  const { k, v } = layerCache(x.subarray(0, 2 * dim), w);
  expect(k.length).toBe(2 * kvHeads * headDim);
  const last = layerForward(x.subarray(2 * dim), w, { k, v });
  for (let d = 0; d < dim; d++) expect(last[d]).toBeCloseTo(whole[2 * dim + d]!, 10);
});
