import { describe, expect, it } from "vitest";
import type { Tensor } from "@x/kernels";
import { checkOp, expectClose, numbers, operand, useGpu, type Operand } from "@x/testing";
import { s5, S5, type S5Options, type S5Parameters } from "../../index.js";
import { expectSame, inPieces, parametersOf } from "../../test-support.js";
import { diagonalReference, discretize } from "./state_space.reference.js";
import { expectDecodes } from "../test-support.js";

const NAMES = ["lambdaRe", "lambdaIm", "logStep", "b", "c", "dSkip"] as const;
const named = (tensors: readonly Tensor[]): S5Parameters =>
  Object.fromEntries(NAMES.map((name, i) => [name, tensors[i]!])) as never;

function parameters(states: number, dim: number, backward = false): Operand[] {
  return [
    { shape: [states], data: numbers(states, 2).map((x) => -0.6 + 0.4 * x) },
    { shape: [states], data: numbers(states, 3).map((x, n) => Math.PI * n + x) },
    { shape: [states], data: numbers(states, 4).map((x) => -1.5 + x) },
    operand([states, dim, 2], 5),
    operand([dim, backward ? 2 * states : states, 2], 6),
    operand([dim], 7),
  ];
}

function reference(
  sizes: { batch: number; seq: number; dim: number; states: number },
  options: S5Options,
  u: Float64Array,
  p: readonly Float64Array[],
  state?: Float64Array,
): number[] {
  const { discretization = "zoh", stepRescale = 1, clipEigs = false, conjugateSymmetry = true } = options;
  const [re, im, logStep, b, c, d] = p as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const discrete = Array.from(re, (x, n) =>
    discretize(
      discretization,
      [clipEigs ? Math.min(x, -1e-4) : x, im[n]!],
      stepRescale * Math.exp(logStep[n]!),
    ),
  );
  return diagonalReference(sizes, discrete, u, b, c, d, {
    state,
    factor: conjugateSymmetry ? 2 : 1,
    backward: options.bidirectional ?? false,
  });
}

describe("s5", () => {
  const device = useGpu();

  it.each([
    ["zero-order hold", {}],
    ["bilinear", { discretization: "bilinear" }],
    ["without symmetry, at another rate", { conjugateSymmetry: false, stepRescale: 0.5 }],
    ["both directions", { bidirectional: true }],
  ] as [string, S5Options][])("%s: the reference and its gradients", async (_, options) => {
    const sizes = { batch: 2, seq: 7, dim: 3, states: 5 };
    await checkOp(
      device.gpu,
      (u, state, ...p) => {
        const { out, state: last } = s5(u, named(p), { ...options, state });
        return [out, last];
      },
      (u, state, ...p) => reference(sizes, options, u, p, state),
      [operand([2, 7, 3], 1), operand([2, 5, 2], 8), ...parameters(5, 3, options.bidirectional)],
    );
  });

  it.each([1, 65, 100, 700])("%i tokens, 33 states, both directions and the state carried", async (seq) => {
    const { gpu } = device;
    const [dim, states] = [5, 33];
    const u = operand([1, seq, dim], 1);
    for (const options of [{}, { bidirectional: true }]) {
      const own = parameters(states, dim, options.bidirectional);
      const expected = reference(
        { batch: 1, seq, dim, states },
        options,
        u.data,
        own.map((o) => o.data),
      );
      const p = named(own.map((o) => gpu.tensor(o.data, o.shape)));
      const x = gpu.tensor(u.data, u.shape);
      const whole = s5(x, p, options);
      await expectClose(whole.out, expected.slice(0, seq * dim), 1e-5);
      if (options.bidirectional || seq < 10) continue;
      let state: Tensor | undefined;
      const pieces = inPieces(gpu, x, [1, 7, seq - 8], (piece) => {
        const next = s5(piece, p, { state });
        state = gpu.keep(next.state);
        return next.out;
      });
      await expectSame(pieces, whole.out);
      await expectSame(state!, whole.state);
    }
  });

  it("clipped real parts count as -1e-4 and have no gradient", async () => {
    const options = { clipEigs: true };
    const own = parameters(3, 2);
    own[0] = { shape: [3], data: Float64Array.from([-0.5, 0.3, -0.2]) };
    await checkOp(
      device.gpu,
      (u, ...p) => s5(u, named(p), options).out,
      (u, ...p) => reference({ batch: 1, seq: 6, dim: 2, states: 3 }, options, u, p).slice(0, 12),
      [operand([1, 6, 2], 1), ...own],
    );
  });

  it("(abar - 1) / A keeps its digits for the smallest steps", async () => {
    const { gpu } = device;
    const own = parameters(4, 2);
    own[2] = { shape: [4], data: Float64Array.from([-18, -14, -11, -8], Math.fround) };
    const u = operand([1, 5, 2], 1);
    for (const discretization of ["zoh", "bilinear"] as const) {
      const expected = reference(
        { batch: 1, seq: 5, dim: 2, states: 4 },
        { discretization },
        u.data,
        own.map((o) => o.data),
      ).slice(10);
      const { state } = s5(gpu.tensor(u.data, u.shape), named(own.map((o) => gpu.tensor(o.data, o.shape))), {
        discretization,
      });
      // Every state by its own size: they differ by e^10.
      const got = await state.read();
      for (let n = 0; n < 4; n++) {
        const size = Math.hypot(expected[2 * n]!, expected[2 * n + 1]!);
        for (const i of [2 * n, 2 * n + 1])
          expect(Math.abs(got[i]! - expected[i]!) / size).toBeLessThan(2e-6);
      }
    }
  });

  it("the layer decodes what it computes at once, is causal, and holds its memory", async () => {
    const { gpu } = device;
    const config = { dim: 6, stateSize: 9, discretization: "bilinear" as const };
    const layer = new S5(config, parametersOf(gpu, S5.plan(config)));
    await expectDecodes(gpu, layer, 6, 2 * 9 * 2 * 4);
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const p = named(parameters(3, 2).map((o) => gpu.tensor(o.data, o.shape)));
    const u = gpu.zeros([1, 4, 2]);
    expect(() => s5(u, p, { discretization: "zero" as never })).toThrow(/discretization is "zero"/);
    expect(() => s5(u, p, { bidirectional: true })).toThrow(/c has shape \[2, 3, 2\]/);
    expect(() => s5(u, p, { stepRescale: NaN })).toThrow(/stepRescale is NaN/);
    expect(() => s5(u, p, { clipEig: true } as never)).toThrow(/did you mean "clipEigs"/);
    expect(() => s5(u, { ...p, b: gpu.zeros([3, 3, 2]) })).toThrow(/b has shape \[3, 3, 2\]/);
    expect(() => S5.plan({ dim: 2, stateSize: 2, dtMin: 1, dtMax: 0.1 })).toThrow(/dtMin is 1/);
  });
});
