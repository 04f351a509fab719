import { describe, expect, it } from "vitest";
import { vjp, type Tensor } from "@x/kernels";
import { checkOp, expectClose, numbers, operand, relativeError, useGpu, type Operand } from "@x/testing";
import { s4d, S4d, type S4dParameters } from "../../index.js";
import { expectSame, inPieces, parametersOf, random } from "../../test-support.js";
import { channelsReference } from "./state_space.reference.js";
import { expectDecodes } from "../test-support.js";

const NAMES = ["logDt", "logAReal", "aImag", "c", "dSkip", "wOut", "bOut"] as const;
const named = (tensors: readonly Tensor[]): S4dParameters =>
  Object.fromEntries(tensors.map((t, i) => [NAMES[i]!, t])) as never;

type Five = [Float64Array, Float64Array, Float64Array, Float64Array, Float64Array];

function parameters(dim: number, states: number): Operand[] {
  const near = (shape: number[], seed: number, of: (x: number, i: number) => number): Operand => {
    const n = shape.reduce((a, b) => a * b);
    return { shape, data: numbers(n, seed).map(of).map(Math.fround) };
  };
  return [
    near([dim], 2, (x) => -2 + x),
    near([dim, states], 3, (x) => Math.log(0.5) + x / 2),
    near([dim, states], 4, (x, i) => Math.PI * (i % states) + x),
    operand([dim, states, 2], 5),
    operand([dim], 6),
  ];
}

describe("s4d", () => {
  const device = useGpu();

  it.each([
    ["conv", "zoh", 2, 7, 3, 5],
    ["conv", "bilinear", 1, 20, 2, 3],
    ["recurrent", "zoh", 2, 7, 3, 5],
    ["recurrent", "bilinear", 1, 18, 2, 3],
    ["conv", "zoh", 1, 1, 1, 2],
  ] as const)(
    "%s, %s: the reference and its gradients, through states",
    async (form, rule, batch, seq, dim, states) => {
      await checkOp(
        device.gpu,
        (u, state, ...p) => {
          const { out, state: last } = s4d(u, named(p), { form, discretization: rule, state });
          return [out, last!];
        },
        (u, state, ...p) => channelsReference({ batch, seq, dim, states }, rule, u, p as Five, state),
        [operand([batch, seq, dim], 1), operand([batch, dim, states, 2], 8), ...parameters(dim, states)],
      );
    },
  );

  it.each([
    [65, 3, 33],
    [100, 5, 4],
    [1300, 3, 9],
    [40, 2, 70],
  ])(
    "%i tokens, %i channels, %i states: both forms, pieces with the state, gradients",
    async (seq, dim, states) => {
      const { gpu } = device;
      const own = parameters(dim, states);
      const u = operand([1, seq, dim], 1);
      const p = named(own.map((o) => gpu.tensor(o.data, o.shape)));
      const x = gpu.tensor(u.data, u.shape);
      const data = own.map((o) => o.data) as Five;
      const expected = channelsReference({ batch: 1, seq, dim, states }, "zoh", u.data, data);
      const wrt = [x, ...Object.values(p as unknown as Record<string, Tensor>)];
      const runs = (["conv", "recurrent"] as const).map((form) => {
        const run = vjp(() => {
          const { out, state } = s4d(x, p, { form });
          return [out, state!];
        }, wrt);
        return {
          outputs: run.outputs,
          grads: run.pullback([random(gpu, [1, seq, dim], 3), random(gpu, [1, dim, states, 2], 4)]),
        };
      });
      for (const { outputs } of runs) {
        await expectClose(outputs[0]!, expected.slice(0, seq * dim), 1e-5);
        await expectClose(outputs[1]!, expected.slice(seq * dim), 1e-5);
      }
      for (const [i, grad] of runs[0]!.grads.entries()) await expectSame(runs[1]!.grads[i]!, grad);
      for (const lengths of [
        [1, 7, seq - 8],
        [30, seq - 30],
      ]) {
        let state: Tensor | undefined;
        const pieces = inPieces(gpu, x, lengths, (piece) => {
          const next = s4d(piece, p, { state, form: piece.shape[1] === 7 ? "recurrent" : "conv" });
          state = gpu.keep(next.state!);
          return next.out;
        });
        await expectSame(pieces, runs[0]!.outputs[0]!);
        await expectSame(state!, runs[0]!.outputs[1]!);
      }
    },
  );

  it("the kernel keeps its phase over a hundred thousand tokens", async () => {
    const { gpu } = device;
    const seq = 100_000;
    // Hardly damped: e^(-0.001 dt) a token, at 100 radians a second.
    const [dt, re, im] = [0.01, 0.001, 100.5].map(Math.fround) as [number, number, number];
    const own = [[Math.log(dt)], [Math.log(re)], [im], [1, 0.5], [0]].map((x) => x.map(Math.fround));
    const shapes = [[1], [1, 1], [1, 1], [1, 1, 2], [1]];
    const { kernel } = s4d(gpu.zeros([1, seq, 1]), named(own.map((x, i) => gpu.tensor(x, shapes[i]))), {
      returnKernel: true,
      returnState: false,
    });
    const got = await kernel!.read();
    const impulse = new Float64Array(seq);
    impulse[0] = 1;
    const five = own.map((x) => Float64Array.from(x)) as Five;
    const expected = channelsReference({ batch: 1, seq, dim: 1, states: 1 }, "zoh", impulse, five);
    // 16000 turns: what is left is the rounding of the angle of one step.
    expect(relativeError(got, expected.slice(0, seq))).toBeLessThan(2e-4);
    expect(relativeError(got.slice(0, 1000), expected.slice(0, 1000))).toBeLessThan(3e-6);
  });

  it("the output block: gelu, a linear map and a gate, in the gradients too", async () => {
    const sizes = { batch: 1, seq: 5, dim: 3, states: 2 };
    await checkOp(
      device.gpu,
      (u, ...p) => s4d(u, named(p), { outputBlock: "glu", returnState: false }).out,
      (u, ...p) => {
        const y = channelsReference(sizes, "zoh", u, p.slice(0, 5) as unknown as Five).slice(0, 15);
        const [w, bias] = p.slice(5) as [Float64Array, Float64Array];
        const act = y.map((x) => 0.5 * x * (1 + erf(x / Math.SQRT2)));
        const z = (t: number, o: number): number =>
          [0, 1, 2].reduce((sum, i) => sum + w[o * 3 + i]! * act[t * 3 + i]!, bias[o]!);
        return Array.from({ length: 15 }, (_, i) => {
          const [t, o] = [Math.floor(i / 3), i % 3];
          return z(t, o) / (1 + Math.exp(-z(t, o + 3)));
        });
      },
      [operand([1, 5, 3], 1), ...parameters(3, 2), operand([6, 3], 11), operand([6], 12)],
    );
  });

  it.each([{ outputBlock: "glu" }, { outputBlock: "none", discretization: "bilinear" }] as const)(
    "the layer decodes what it computes at once, is causal, and holds its memory: %o",
    async (options) => {
      const { gpu } = device;
      const config = { dim: 6, stateSize: 9, ...options };
      const layer = new S4d(config, parametersOf(gpu, S4d.plan(config)));
      await expectDecodes(gpu, layer, 6, 2 * 6 * 9 * 2 * 4);
    },
  );

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const p = named(parameters(2, 3).map((o) => gpu.tensor(o.data, o.shape)));
    const u = gpu.zeros([1, 4, 2]);
    const bad =
      (options: object): (() => unknown) =>
      () =>
        s4d(u, p, options);
    expect(bad({ form: "fft" })).toThrow(/form is "fft"; it must be one of conv, recurrent/);
    expect(bad({ discretisation: "zoh" })).toThrow(/did you mean "discretization"/);
    expect(bad({ outputBlock: "glu" })).toThrow(/wOut belongs to "glu"/);
    expect(bad({ state: gpu.zeros([1, 2, 4, 2]) })).toThrow(/state has shape \[1, 2, 4, 2\]/);
    expect(() => s4d(gpu.zeros([1, 0, 2]), p)).toThrow(/u has no tokens/);
    expect(() => s4d(gpu.zeros([1, 4, 3]), p)).toThrow(/logAReal has shape \[2, 3\]/);
    expect(() => s4d(gpu.zeros([1, 4, 2], "i32"), p)).toThrow(/u is i32; it must be f32/);
    expect(() => S4d.plan({ dim: 2, stateSize: 3, dtMin: 0 })).toThrow(/dtMin is 0/);
  });
});

/** erf by its series, in float64, for moderate x. */
function erf(x: number): number {
  let [term, sum] = [x, x];
  for (let n = 1; n < 80; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}
