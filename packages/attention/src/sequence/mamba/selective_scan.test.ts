import { describe, expect, it } from "vitest";
import { vjp, type Tensor } from "@x/kernels";
import { checkOp, operand, relativeError, useGpu, type Operand } from "@x/testing";
import { checkSlopes } from "../test-support.js";
import { selectiveScan, type SelectiveScanOptions } from "../index.js";
import { expectCausal, expectConstantMemory, expectSame, random, rows } from "../../test-support.js";
import { selectiveScanReference, type ScanSizes } from "./selective_scan.reference.js";

const ALL = ["u", "delta", "a", "b", "c", "z", "state", "dSkip", "deltaBias"] as const;
type Name = (typeof ALL)[number];

function operandsOf({ batch, seq, dim, states }: ScanSizes, seed = 1): Record<Name, Operand> {
  const row = [batch, seq, dim];
  const negative = operand([dim, states], seed + 2);
  return {
    u: operand(row, seed),
    delta: operand(row, seed + 1),
    a: { ...negative, data: negative.data.map((x) => Math.fround(-1.6 - 1.5 * x)) },
    b: operand([batch, seq, states], seed + 3),
    c: operand([batch, seq, states], seed + 4),
    z: operand(row, seed + 5),
    state: operand([batch, dim, states], seed + 6),
    dSkip: operand([dim], seed + 7),
    deltaBias: operand([dim], seed + 8),
  };
}

function run(given: Partial<Record<Name, Tensor>>, options: SelectiveScanOptions = {}): Tensor[] {
  const { u, delta, a, b, c, z, state, dSkip, deltaBias } = given;
  const result = selectiveScan(u!, delta!, a!, b!, c!, { ...options, z, state, dSkip, deltaBias });
  return [result.out, result.state];
}

describe("selectiveScan", () => {
  const device = useGpu();
  const tensors = (sizes: ScanSizes, names: readonly Name[] = ALL, seed = 1): Record<Name, Tensor> => {
    const given = operandsOf(sizes, seed);
    return Object.fromEntries(
      names.map((name) => [name, device.gpu.tensor(given[name].data, given[name].shape)]),
    ) as Record<Name, Tensor>;
  };

  it.each<[string, ScanSizes, readonly Name[]]>([
    ["everything", { batch: 2, seq: 7, dim: 3, states: 4 }, ALL],
    [
      "five states, no gate",
      { batch: 1, seq: 18, dim: 2, states: 5 },
      ["u", "delta", "a", "b", "c", "state"],
    ],
    ["one token", { batch: 2, seq: 1, dim: 5, states: 3 }, ALL],
    ["delta as it is", { batch: 1, seq: 5, dim: 3, states: 4, deltaSoftplus: false }, ALL],
    ["zero-order hold", { batch: 1, seq: 6, dim: 3, states: 4, discretization: "zoh" }, ALL],
    ["a skip alone", { batch: 1, seq: 4, dim: 2, states: 3 }, ["u", "delta", "a", "b", "c", "dSkip"]],
    [
      "a bias alone",
      { batch: 1, seq: 4, dim: 2, states: 4, discretization: "zoh" },
      ["u", "delta", "a", "b", "c", "deltaBias"],
    ],
  ])("%s: the float64 reference and its differences", async (_, sizes, names) => {
    const { deltaSoftplus = true, discretization = "mamba" } = sizes;
    const given = operandsOf(sizes);
    if (!deltaSoftplus)
      given.delta.data.forEach((x, i) => (given.delta.data[i] = Math.fround(0.6 + 0.5 * x)));
    await checkOp(
      device.gpu,
      (...inputs) =>
        run(Object.fromEntries(names.map((name, i) => [name, inputs[i]!])), {
          deltaSoftplus,
          discretization,
        }),
      (...inputs) => {
        const { out, state } = selectiveScanReference(
          sizes,
          Object.fromEntries(names.map((name, i) => [name, inputs[i]!])) as Record<Name, Float64Array>,
        );
        return [...out, ...state];
      },
      names.map((name) => given[name]),
    );
  });

  it.each<[string, ScanSizes]>([
    ["one group of channels", { batch: 1, seq: 100, dim: 33, states: 16 }],
    ["cut into chunks", { batch: 1, seq: 333, dim: 5, states: 3 }],
    ["cut into chunks, zero-order hold", { batch: 2, seq: 130, dim: 7, states: 4, discretization: "zoh" }],
    ["two groups of channels", { batch: 1, seq: 65, dim: 70, states: 3 }],
  ])("%s: the reference, and its slopes along a direction of each operand", async (_, sizes) => {
    const { discretization = "mamba" } = sizes;
    const given = operandsOf(sizes);
    await checkSlopes(
      device.gpu,
      (...inputs) => run(Object.fromEntries(ALL.map((name, i) => [name, inputs[i]!])), { discretization }),
      (...inputs) => {
        const named = Object.fromEntries(ALL.map((name, i) => [name, inputs[i]!]));
        const { out, state } = selectiveScanReference(sizes, named as Record<Name, Float64Array>);
        return [...out, ...state];
      },
      ALL.map((name) => given[name]),
    );
  });

  it("steps keep their digits where softplus is small, and sums where a forgets at once", async () => {
    const { gpu } = device;
    const sizes = { batch: 1, seq: 40, dim: 4, states: 4 };
    const given = operandsOf(sizes);
    given.delta.data.forEach((x, i) => (given.delta.data[i] = Math.fround(-9 + 4 * x)));
    given.a.data.forEach((x, i) => (given.a.data[i] = i % 2 ? -1e4 : x));
    const { out } = selectiveScanReference(
      sizes,
      Object.fromEntries(ALL.slice(0, 5).map((name) => [name, given[name].data])) as Record<
        Name,
        Float64Array
      >,
    );
    const named = Object.fromEntries(
      ALL.slice(0, 5).map((name) => [name, gpu.tensor(given[name].data, given[name].shape)]),
    );
    expect(relativeError(await run(named)[0]!.read(), out)).toBeLessThan(2e-6);
  });

  it("pieces with the state = the whole, whatever the cuts; causal", async () => {
    const { gpu } = device;
    const sizes = { batch: 2, seq: 65, dim: 9, states: 16 };
    const named = tensors(sizes);
    const [whole, last] = run(named);
    for (const pieces of [[1, 64], [17, 40, 8], Array<number>(65).fill(1)]) {
      let [start, state] = [0, named.state];
      for (const n of pieces) {
        const part = Object.fromEntries(
          Object.entries(named).map(([name, t]) => [name, t.shape[1] === 65 ? rows(t, start, start + n) : t]),
        ) as Record<Name, Tensor>;
        const [out, next] = run({ ...part, state });
        if (start === 0 || start + n === 65) await expectSame(out!, rows(whole!, start, start + n));
        [start, state] = [start + n, next!];
      }
      await expectSame(state, last!);
    }
    await expectCausal(gpu, named.u, 20, (u) => run({ ...named, u })[0]!);
  });

  it("holds memory constant, and as many dispatches for a long text as for a short one", async () => {
    const { gpu } = device;
    const long = tensors({ batch: 1, seq: 600, dim: 8, states: 4 });
    const short = tensors({ batch: 1, seq: 300, dim: 8, states: 4 });
    const names = Object.keys(long) as Name[];
    const step = (given: Record<Name, Tensor>) => (): void => {
      const r = vjp(
        () => run(given),
        names.map((name) => given[name]),
      );
      r.pullback(r.outputs);
    };
    await expectConstantMemory(gpu, 4, step(long));
    const dispatches = async (fn: () => void): Promise<number> => {
      await gpu.sync();
      const before = gpu.counters().dispatches;
      gpu.scope(fn);
      await gpu.sync();
      return gpu.counters().dispatches - before;
    };
    expect(await dispatches(step(long))).toBe(await dispatches(step(short)));
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const named = tensors({ batch: 2, seq: 3, dim: 4, states: 5 });
    const call =
      (change: Partial<Record<Name, Tensor>>, options: object = {}) =>
      () =>
        run({ ...named, ...change }, options);
    expect(call({ b: random(gpu, [2, 3, 4], 1) })).toThrow(/b has shape \[2, 3, 4\]; it must be .*N = 5/);
    expect(call({ state: random(gpu, [2, 5, 4], 1) })).toThrow(/state has shape \[2, 5, 4\]/);
    expect(call({ u: gpu.zeros([2, 3, 4], "i32") })).toThrow(/u is i32; it must be f32/);
    expect(call({}, { discretization: "euler" })).toThrow(
      /discretization is "euler"; it must be one of mamba, zoh/,
    );
    expect(call({}, { softplus: false })).toThrow(/unknown key "softplus"/);
  });
});

describe("selectiveScan as a GPU runs it", () => {
  const device = useGpu({ hardware: true });

  it("gives the reference's values and slopes, in more chunks and with loops of constant length over quads", async () => {
    const sizes = { batch: 2, seq: 200, dim: 3, states: 4 };
    const given = operandsOf(sizes);
    await checkSlopes(
      device.gpu,
      (...inputs) => run(Object.fromEntries(ALL.map((name, i) => [name, inputs[i]!]))),
      (...inputs) => {
        const named = Object.fromEntries(ALL.map((name, i) => [name, inputs[i]!]));
        const { out, state } = selectiveScanReference(sizes, named as Record<Name, Float64Array>);
        return [...out, ...state];
      },
      ALL.map((name) => given[name]),
    );
  });
});
