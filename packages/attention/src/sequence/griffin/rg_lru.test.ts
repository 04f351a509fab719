import { describe, expect, it } from "vitest";
import { vjp, type Tensor } from "@x/kernels";
import { checkOp, operand, relativeError, useGpu, type Operand } from "@x/testing";
import { expectCausal, expectConstantMemory, expectSame, random, rows } from "../../test-support.js";
import { rgLru, type RgLruOptions } from "../index.js";
import { rgLruReference, type RgLruInputs, type RgLruSizes } from "./rg_lru.reference.js";
import { checkSlopes } from "../test-support.js";

const NAMES = ["x", "wInput", "bInput", "wRec", "bRec", "aParam", "state"] as const;
type Name = (typeof NAMES)[number];

describe("rgLru", () => {
  const device = useGpu();
  const operandsOf = ({ batch, seq, blocks, block }: RgLruSizes): Record<Name, Operand> => ({
    x: operand([batch, seq, blocks * block], 1),
    wInput: operand([blocks, block, block], 2),
    bInput: operand([blocks, block], 3),
    wRec: operand([blocks, block, block], 4),
    bRec: operand([blocks, block], 5),
    aParam: operand([blocks * block], 6),
    state: operand([batch, blocks * block], 7),
  });
  const run = (given: Partial<Record<Name, Tensor>>, options: RgLruOptions = {}): Tensor => {
    const { x, state, ...parameters } = given as Record<Name, Tensor>;
    return rgLru(x, parameters, { ...options, state }).out;
  };
  const named = <T>(values: readonly T[]): Record<Name, T> =>
    Object.fromEntries(values.map((value, i) => [NAMES[i]!, value])) as Record<Name, T>;
  const tensors = (sizes: RgLruSizes): Record<Name, Tensor> => {
    const given = operandsOf(sizes);
    return named(NAMES.map((name) => device.gpu.tensor(given[name].data, given[name].shape)));
  };

  it.each<[string, RgLruSizes, number, number[] | undefined]>([
    ["a state comes in", { batch: 2, seq: 7, blocks: 3, block: 2 }, 7, undefined],
    ["from nothing", { batch: 1, seq: 9, blocks: 1, block: 5, c: 2 }, 6, undefined],
    ["one token", { batch: 3, seq: 1, blocks: 2, block: 3 }, 7, undefined],
    ["documents", { batch: 2, seq: 5, blocks: 1, block: 3 }, 7, [3, 4, 0, 1, 2, 0, 1, 2, 3, 0]],
  ])("%s: the float64 reference and its differences", async (_, sizes, count, positions) => {
    const { gpu } = device;
    const segmentPos = positions && gpu.tensor(positions, [sizes.batch, sizes.seq], "i32");
    const { c = 8 } = sizes;
    const given = operandsOf(sizes);
    await checkOp(
      gpu,
      (...inputs) => run(named(inputs), { segmentPos, c }),
      (...inputs) => rgLruReference(sizes, { ...(named(inputs) as RgLruInputs), segmentPos: positions }),
      NAMES.slice(0, count).map((name) => given[name]),
    );
  });

  it.each<[string, RgLruSizes]>([
    ["one piece", { batch: 2, seq: 100, blocks: 3, block: 11 }],
    ["cut into chunks", { batch: 1, seq: 333, blocks: 2, block: 4 }],
  ])("%s: the reference, and its slopes along a direction of each operand", async (_, sizes) => {
    const given = operandsOf(sizes);
    await checkSlopes(
      device.gpu,
      (...inputs) => [run(named(inputs))],
      (...inputs) => rgLruReference(sizes, named(inputs)),
      NAMES.map((name) => given[name]),
    );
  });

  it("keeps the digits of 1 - a^2 where a is almost 1", async () => {
    const { gpu } = device;
    const sizes = { batch: 1, seq: 300, blocks: 1, block: 4 };
    const given = operandsOf(sizes);
    given.aParam.data.fill(-9);
    const out = await run(named(NAMES.map((name) => gpu.tensor(given[name].data, given[name].shape)))).read();
    const data = named(NAMES.map((name) => given[name].data));
    expect(relativeError(out, rgLruReference(sizes, data))).toBeLessThan(1e-5);
  });

  it("pieces with the state = the whole; a document knows nothing of the one before; causal", async () => {
    const { gpu } = device;
    const sizes = { batch: 2, seq: 65, blocks: 3, block: 3 };
    const given = tensors(sizes);
    const whole = run(given);
    let state = given.state;
    for (const [start, end] of [
      [0, 1],
      [1, 40],
      [40, 65],
    ] as const) {
      const { x, wInput, bInput, wRec, bRec, aParam } = given;
      const piece = rgLru(rows(x, start, end), { wInput, bInput, wRec, bRec, aParam }, { state });
      await expectSame(piece.out, rows(whole, start, end));
      state = piece.state;
    }
    const positions = Int32Array.from({ length: 130 }, (_, i) => (i % 65) % 20);
    const segmentPos = gpu.tensor(positions, [2, 65], "i32");
    await expectSame(
      rows(run(given, { segmentPos }), 20, 40),
      run({ ...given, x: rows(given.x, 20, 40) }, { segmentPos: rows(segmentPos, 0, 20) }),
    );
    await expectCausal(gpu, given.x, 20, (x) => run({ ...given, x }));
  });

  it("holds memory constant", async () => {
    const given = tensors({ batch: 1, seq: 400, blocks: 2, block: 4 });
    await expectConstantMemory(device.gpu, 4, () => {
      const r = vjp(() => [run(given)], Object.values(given));
      r.pullback(r.outputs);
    });
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const given = tensors({ batch: 2, seq: 3, blocks: 2, block: 3 });
    const call =
      (change: Partial<Record<Name, Tensor>>, options: object = {}) =>
      () =>
        run({ ...given, ...change }, options);
    expect(call({ wRec: random(gpu, [2, 3, 2], 1) })).toThrow(/wRec has shape \[2, 3, 2\]/);
    expect(
      call({ x: random(gpu, [2, 3, 7], 1), aParam: random(gpu, [7], 1), state: undefined as never }),
    ).toThrow(/wInput has 2 blocks of 3; together they must be x's width, 7/);
    expect(call({}, { segmentPos: gpu.zeros([2, 3]) })).toThrow(/segmentPos is f32; it must be i32/);
    expect(call({}, { c: -1 })).toThrow(/c is -1/);
  });
});
