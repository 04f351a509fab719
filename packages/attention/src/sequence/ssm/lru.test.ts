import { describe, expect, it } from "vitest";
import { DTypeError, ShapeError, type Tensor } from "@x/kernels";
import { checkOp, expectClose, numbers, operand, useGpu, type Operand } from "@x/testing";
import { lru, Lru, type LruParameters } from "../../index.js";
import { expectSame, inPieces, parametersOf } from "../../test-support.js";
import { diagonalReference } from "./state_space.reference.js";
import { expectDecodes } from "../test-support.js";

const NAMES = ["nuLog", "thetaLog", "gammaLog", "b", "c", "dSkip"] as const;
const named = (tensors: readonly Tensor[]): LruParameters =>
  Object.fromEntries(NAMES.map((name, i) => [name, tensors[i]!])) as never;

/** |lambda| around `damping`. */
function parameters(states: number, dim: number, damping = 0.8): Operand[] {
  const near = (at: number, seed: number): Operand => ({
    shape: [states],
    data: numbers(states, seed).map((x) => at + 0.3 * x),
  });
  return [
    near(Math.log(-Math.log(damping)), 2),
    near(0, 3),
    near(-0.5, 4),
    operand([states, dim, 2], 5),
    operand([dim, states, 2], 6),
    operand([dim], 7),
  ];
}

function reference(
  sizes: { batch: number; seq: number; dim: number; states: number },
  u: Float64Array,
  p: readonly Float64Array[],
  state?: Float64Array,
): number[] {
  const [nu, theta, gamma, b, c, d] = p as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const discrete = Array.from(nu, (x, n) => {
    const [size, angle] = [Math.exp(-Math.exp(x)), Math.exp(theta[n]!)];
    return {
      a: [size * Math.cos(angle), size * Math.sin(angle)] as const,
      f: [Math.exp(gamma[n]!), 0] as const,
    };
  });
  return diagonalReference(sizes, discrete, u, b, c, d, { state, factor: 1 });
}

describe("lru", () => {
  const device = useGpu();

  it.each([
    [1, 1, 3, 2],
    [2, 7, 3, 5],
    [1, 40, 2, 3],
  ])("batch %i, %i tokens, %i channels, %i states: the reference and its gradients", async (...size) => {
    const [batch, seq, dim, states] = size;
    await checkOp(
      device.gpu,
      (u, state, ...p) => {
        const { out, state: last } = lru(u, named(p), { state });
        return [out, last];
      },
      (u, state, ...p) => reference({ batch, seq, dim, states }, u, p, state),
      [operand([batch, seq, dim], 1), operand([batch, states, 2], 8), ...parameters(states, dim)],
    );
  });

  it.each([65, 100, 1000])(
    "%i tokens in chunks of the scan: values, and pieces with the state",
    async (seq) => {
      const { gpu } = device;
      const [dim, states] = [2, 33];
      const u = operand([1, seq, dim], 1);
      const own = parameters(states, dim, 0.99);
      const expected = reference(
        { batch: 1, seq, dim, states },
        u.data,
        own.map((o) => o.data),
      );
      const p = named(own.map((o) => gpu.tensor(o.data, o.shape)));
      const x = gpu.tensor(u.data, u.shape);
      const whole = lru(x, p);
      await expectClose(whole.out, expected.slice(0, seq * dim), 1e-5);
      await expectClose(whole.state, expected.slice(seq * dim), 1e-5);
      let state: Tensor | undefined;
      const pieces = inPieces(gpu, x, [1, 7, seq - 8], (piece) => {
        const next = lru(piece, p, { state });
        state = gpu.keep(next.state);
        return next.out;
      });
      await expectSame(pieces, whole.out);
    },
  );

  it("gradients over the borders of chunks are those of the reference", async () => {
    const [batch, seq, dim, states] = [1, 50, 1, 2];
    await checkOp(
      device.gpu,
      (u, state, ...p) => Object.values(lru(u, named(p), { state })),
      (u, state, ...p) => reference({ batch, seq, dim, states }, u, p, state),
      [operand([batch, seq, dim], 1), operand([batch, states, 2], 8), ...parameters(states, dim, 0.95)],
    );
  });

  it("a hundred thousand steps keep their phase", async () => {
    const { gpu } = device;
    const n = 100_000;
    const angle = 0.7;
    // One impulse, undamped but for 1e-5 a step: the state turns for n steps.
    const p = [[Math.log(1e-5)], [Math.log(angle)], [0], [1, 0], [1, 0], [0]];
    const shapes = [[1], [1], [1], [1, 1, 2], [1, 1, 2], [1]];
    const impulse = new Float32Array(n);
    impulse[0] = 1;
    const { state } = lru(gpu.tensor(impulse, [1, n, 1]), named(p.map((v, i) => gpu.tensor(v, shapes[i]))));
    const [re, im] = await state.read();
    // The parameter is a float32, whose angle is exp of it.
    const turned = (n - 1) * Math.exp(Math.fround(Math.log(angle)));
    const off = Math.atan2(im!, re!) - Math.atan2(Math.sin(turned), Math.cos(turned));
    expect(Math.abs(Math.atan2(Math.sin(off), Math.cos(off)))).toBeLessThan(3e-4);
  });

  it("the layer decodes what it computes at once, is causal, and holds its memory", async () => {
    const { gpu } = device;
    const config = { dim: 6, stateSize: 9 };
    const layer = new Lru(config, parametersOf(gpu, Lru.plan(config)));
    await expectDecodes(gpu, layer, 6, 2 * 9 * 2 * 4);
  });

  it("starts on the ring, with outputs of the input's size", async () => {
    const layer = Lru.init(device.gpu, { dim: 4, stateSize: 16, rMin: 0.5, rMax: 0.9 }, { seed: 1 });
    const sizes = Array.from(await layer.parameters()["nu_log"]!.read(), (x) => Math.exp(-Math.exp(x)));
    const gammas = await layer.parameters()["gamma_log"]!.read();
    expect(Math.min(...sizes)).toBeGreaterThan(0.5);
    expect(Math.max(...sizes)).toBeLessThan(0.9);
    for (const [n, size] of sizes.entries()) expect(Math.exp(2 * gammas[n]!)).toBeCloseTo(1 - size ** 2, 5);
    for (const t of Object.values(layer.parameters())) t.dispose();
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const p = named(parameters(3, 2).map((o) => gpu.tensor(o.data, o.shape)));
    const u = gpu.zeros([1, 4, 2]);
    expect(() => lru(gpu.zeros([4, 2]), p)).toThrow(/u has shape \[4, 2\]; it must be \[batch, seq, dim\]/);
    expect(() => lru(gpu.zeros([1, 0, 2]), p)).toThrow(/u has no tokens/);
    expect(() => lru(u, { ...p, c: gpu.zeros([2, 4, 2]) })).toThrow(ShapeError);
    expect(() => lru(u, { ...p, nuLog: gpu.zeros([2]) })).toThrow(/thetaLog has shape \[3\]/);
    expect(() => lru(u, p, { state: gpu.zeros([1, 3]) })).toThrow(/state has shape \[1, 3\]/);
    expect(() => lru(gpu.zeros([1, 4, 2], "i32"), p)).toThrow(DTypeError);
    expect(() => lru(u, p, { residual: gpu.zeros([4, 2]) })).toThrow(/residual has shape \[4, 2\]/);
    expect(() => lru(u, { ...p, d: u } as never)).toThrow(/unknown key "d"/);
    expect(() => Lru.plan({ dim: 2, stateSize: 0 })).toThrow(/stateSize is 0/);
    expect(() => Lru.plan({ dim: 2, stateSize: 1, rMin: 0.5, rMax: 0.4 })).toThrow(/rMin is 0.5/);
  });
});

describe("lru, cut into as many chunks as on a GPU", () => {
  const device = useGpu({ hardware: true });

  it.each([
    [2, 33, 3, 40],
    [1, 150, 2, 3],
  ])("batch %i, %i tokens, %i channels, %i states: values and gradients", async (batch, seq, dim, states) => {
    const own = parameters(states, dim, 0.95);
    const state = operand([batch, states, 2], 8);
    await checkOp(
      device.gpu,
      (u, gamma, ...p) => {
        const given = own.map((o) => device.gpu.tensor(o.data, o.shape));
        const all = [...p.slice(0, 2), gamma, ...given.slice(3)];
        const next = lru(u, named(all), { state: device.gpu.tensor(state.data, state.shape) });
        return [next.out, next.state];
      },
      (u, gamma, ...p) =>
        reference(
          { batch, seq, dim, states },
          u,
          [...p.slice(0, 2), gamma, ...own.slice(3).map((o) => o.data)],
          state.data,
        ),
      [operand([batch, seq, dim], 1), own[2]!, own[0]!, own[1]!],
    );
  });
});
