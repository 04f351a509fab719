import { describe, expect, it } from "vitest";
import { concat, vjp, type Tensor } from "@x/kernels";
import { checkOp, operand, relativeError, useGpu, type Operand } from "@x/testing";
import { expectCausal, expectConstantMemory, expectSame, random, rows } from "../../test-support.js";
import { wkv, type WkvState } from "../index.js";
import { wkvReference } from "./rwkv4.reference.js";
import { checkSlopes } from "../test-support.js";

describe("wkv", () => {
  const device = useGpu();
  const hardware = useGpu({ hardware: true });
  const operandsOf = (batch: number, seq: number, dim: number, size = 1): Operand[] => [
    { shape: [batch, seq, dim], data: operand([batch, seq, dim], 1).data.map((x) => Math.fround(size * x)) },
    operand([batch, seq, dim], 2),
    { shape: [dim], data: operand([dim], 3).data.map((x) => Math.fround(2 * x - 1)) },
    operand([dim], 4),
  ];
  const run = (k: Tensor, v: Tensor, decay: Tensor, first: Tensor): Tensor => wkv(k, v, decay, first).out;

  it.each([
    ["a few tokens", [2, 7, 3]],
    ["one token", [3, 1, 5]],
    ["a block and one token", [1, 17, 2]],
  ] as const)("%s: the float64 reference and its differences", async (_, [batch, seq, dim]) => {
    await checkOp(
      device.gpu,
      (...inputs) => run(...(inputs as [Tensor, Tensor, Tensor, Tensor])),
      (...inputs) =>
        wkvReference(
          { batch, seq, dim },
          ...(inputs as [Float64Array, Float64Array, Float64Array, Float64Array]),
        ),
      operandsOf(batch, seq, dim),
    );
  });

  it.each([
    ["one piece", [2, 100, 33], device],
    ["cut into chunks", [1, 333, 5], device],
    ["as a GPU runs it", [2, 200, 3], hardware],
  ] as const)(
    "%s: the reference, and its slopes along a direction of each operand",
    async (_, [batch, seq, dim], { gpu }) => {
      await checkSlopes(
        gpu,
        (...inputs) => [run(...(inputs as [Tensor, Tensor, Tensor, Tensor]))],
        (...inputs) =>
          wkvReference(
            { batch, seq, dim },
            ...(inputs as [Float64Array, Float64Array, Float64Array, Float64Array]),
          ),
        operandsOf(batch, seq, dim),
      );
    },
  );

  it("keys in the hundreds overflow nothing, forward or backward", async () => {
    const { gpu } = device;
    const [batch, seq, dim] = [1, 200, 4];
    const operands = operandsOf(batch, seq, dim, 150);
    const tensors = operands.map((o) => gpu.tensor(o.data, o.shape)) as [Tensor, Tensor, Tensor, Tensor];
    const { outputs, pullback } = vjp(() => [run(...tensors)], tensors);
    const [k, v, decay, first] = operands.map((o) => o.data) as [
      Float64Array,
      Float64Array,
      Float64Array,
      Float64Array,
    ];
    const expected = wkvReference({ batch, seq, dim }, k, v, decay, first);
    expect(relativeError(await outputs[0]!.read(), expected)).toBeLessThan(1e-4);
    for (const grad of pullback([random(gpu, [batch, seq, dim], 9)]))
      expect(Array.from(await grad.read()).every(Number.isFinite)).toBe(true);
  });

  it("pieces with the state = the whole, the running maximum included; causal", async () => {
    const { gpu } = device;
    const [k, v] = [random(gpu, [2, 65, 9], 1), random(gpu, [2, 65, 9], 2)];
    const [decay, first] = [random(gpu, [9], 3), random(gpu, [9], 4)];
    const whole = wkv(k, v, decay, first);
    let state: Partial<WkvState> = {};
    const outs: Tensor[] = [];
    for (const [start, end] of [
      [0, 1],
      [1, 40],
      [40, 65],
    ] as const) {
      const { out, ...next } = wkv(rows(k, start, end), rows(v, start, end), decay, first, state);
      outs.push(out);
      state = next;
    }
    await expectSame(concat(outs, 1), whole.out);
    for (const name of ["num", "den", "max"] as const) await expectSame(state[name]!, whole[name]);
    expect(Math.max(...(await whole.max.read()))).toBeLessThanOrEqual(1);
    await expectCausal(gpu, k, 20, (x) => run(x, v, decay, first));
  });

  it("holds memory constant", async () => {
    const { gpu } = device;
    const inputs = operandsOf(1, 400, 6).map((o) => gpu.tensor(o.data, o.shape)) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    await expectConstantMemory(gpu, 4, () => {
      const r = vjp(() => [run(...inputs)], inputs);
      r.pullback(r.outputs);
    });
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const [k, d] = [random(gpu, [2, 3, 4], 1), random(gpu, [4], 2)];
    expect(() => run(k, random(gpu, [2, 3, 5], 1), d, d)).toThrow(/v has shape \[2, 3, 5\]/);
    expect(() => run(k, k, random(gpu, [3], 1), d)).toThrow(/timeDecay has shape \[3\]/);
    expect(() => run(gpu.zeros([2, 3, 4], "i32"), k, d, d)).toThrow(/k is i32; it must be f32/);
    expect(() => wkv(k, k, d, d, { max: d })).toThrow(/only max came; num, den and max belong together/);
  });
});
