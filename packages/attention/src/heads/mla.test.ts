import { describe, expect, it } from "vitest";
import { vjp } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { MultiHeadLatentAttention, type MlaConfig } from "../index.js";
import { mlaReference } from "./mla.reference.js";
import {
  expectCausal,
  expectConstantMemory,
  expectSame,
  inPieces,
  parametersOf,
  random,
} from "../test-support.js";

const config: MlaConfig = { dim: 10, numHeads: 3, nopeDim: 5, ropeDim: 4, vDim: 7, kvRank: 6 };

describe("MultiHeadLatentAttention", () => {
  const device = useGpu();

  it("is the float64 reference, with its gradients, in both forms", async () => {
    const plan = MultiHeadLatentAttention.plan(config);
    for (const form of ["expanded", "absorbed"] as const)
      await checkOp(
        device.gpu,
        (x, ...weights) => {
          const named = Object.fromEntries(Object.keys(plan).map((name, i) => [name, weights[i]!]));
          return new MultiHeadLatentAttention(config, named).forward(x, { form });
        },
        mlaReference(config, 2, 5),
        [operand([2, 5, 10], 1), ...Object.values(plan).map(({ shape }, i) => operand(shape, 10 + i))],
      );
  });

  it("absorbed = expanded, with compressed queries, biases and a scale, values and gradients", async () => {
    const { gpu } = device;
    const own = { ...config, qRank: 8, scale: 0.2, dim: 12, vDim: 4, bias: true };
    const parameters = parametersOf(gpu, MultiHeadLatentAttention.plan(own));
    const layer = new MultiHeadLatentAttention(own, parameters);
    const x = random(gpu, [2, 9, 12], 3);
    const wrt = [x, ...Object.values(parameters)];
    const [one, two] = (["expanded", "absorbed"] as const).map((form) => {
      const run = vjp(() => [layer.forward(x, { form })], wrt);
      return { out: run.outputs[0]!, grads: run.pullback([random(gpu, [2, 9, 12], 4)]) };
    });
    await expectSame(one!.out, two!.out);
    for (const [i, grad] of one!.grads.entries()) await expectSame(two!.grads[i]!, grad, 2e-5);
  });

  it("decodes from its cache, counted or at positions of the device, and never looks ahead", async () => {
    const { gpu } = device;
    const layer = new MultiHeadLatentAttention(
      config,
      parametersOf(gpu, MultiHeadLatentAttention.plan(config)),
    );
    const x = random(gpu, [2, 9, 10], 3);
    const whole = layer.forward(x);
    for (const pieces of [[4, 1, 1, 3], Array<number>(9).fill(1)]) {
      const cache = layer.createState({ batch: 2, maxLength: 12 });
      await expectSame(
        inPieces(gpu, x, pieces, (piece) => layer.forward(piece, { state: cache })),
        whole,
      );
      cache.clear();
      let at = 0;
      const placed = inPieces(gpu, x, pieces, (piece) => {
        const n = piece.shape[1]!;
        const ids = Array.from({ length: 2 * n }, (_, i) => at + (i % n));
        at += n;
        return layer.forward(piece, { state: cache, positions: gpu.tensor(ids, [2, n], "i32") });
      });
      await expectSame(placed, whole);
      expect(cache.bytesPerToken).toBe((6 + 4) * 4);
      cache.dispose();
    }
    await expectCausal(gpu, x, 5, (y) => layer.forward(y));
    layer.dispose();
  });

  it("records a piece on an empty cache that is right for the pieces after it", async () => {
    const { gpu } = device;
    const layer = new MultiHeadLatentAttention(
      config,
      parametersOf(gpu, MultiHeadLatentAttention.plan(config)),
    );
    const x = random(gpu, [1, 6, 10], 3);
    const values = Array.from(await x.read());
    const whole = await layer.forward(x).read();
    const state = layer.createState({ batch: 1, maxLength: 6 });
    const [piece, positions] = [gpu.empty([1, 3, 10]), gpu.empty([1, 3], "i32")];
    const write = (first: number): void => {
      piece.write(Float32Array.from(values.slice(first * 10, (first + 3) * 10)));
      positions.write(Int32Array.from([first, first + 1, first + 2]));
    };
    write(0);
    const step = { state, positions, textLength: 6 };
    const recording = gpu.record(() => layer.forward(piece, step));
    write(3);
    recording.replay();
    await expectSame(recording.outputs, gpu.tensor(whole.slice(30), [1, 3, 10]));
    expect(() => gpu.record(() => layer.forward(piece, { ...step, form: "expanded" }))).toThrow(
      "in a recording, it must be absorbed",
    );
    recording.dispose();
    state.dispose();
    layer.dispose();
  });

  it("holds memory constant, and refuses a full cache and bad configurations", async () => {
    const { gpu } = device;
    const parameters = parametersOf(gpu, MultiHeadLatentAttention.plan(config));
    const layer = new MultiHeadLatentAttention(config, parameters);
    const cache = layer.createState({ batch: 1, maxLength: 20 });
    const x = random(gpu, [1, 1, 10], 3);
    await expectConstantMemory(gpu, 20, () => layer.forward(x, { state: cache }));
    expect(() => layer.forward(x, { state: cache })).toThrow(/position 20 does not fit/);
    expect(() => layer.forward(x, { state: cache, form: "expanded" })).toThrow(/it must be absorbed/);
    expect(() => layer.forward(x, { positions: [0] })).toThrow(/without a state/);
    expect(() => new MultiHeadLatentAttention({ ...config, ropeDim: 3 }, parameters)).toThrow(
      /ropeDim is 3; it must be even/,
    );
    expect(() => new MultiHeadLatentAttention({ ...config, qRank: 4 }, parameters)).toThrow(/q_a_proj/);
    cache.dispose();
    layer.dispose();
  });
});
