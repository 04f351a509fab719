import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { MambaBlock } from "../index.js";
import { expectSame, parametersOf, random, rows } from "../../test-support.js";
import { expectDecodes } from "../test-support.js";

describe("MambaBlock", () => {
  const device = useGpu();
  const config = { dim: 8, innerDim: 12, stateSize: 4, convSize: 3, dtRank: 2, bias: true };
  const blockOf = (): MambaBlock => new MambaBlock(config, parametersOf(device.gpu, MambaBlock.plan(config)));

  it("decodes what it computes at once, causally, in constant memory, the bytes as the state's shape says", async () => {
    const { gpu } = device;
    await expectDecodes(gpu, blockOf(), 8, 4 * 2 * 12 * (4 + 2));
  });

  it("hands on the states of the whole", async () => {
    const { gpu } = device;
    const block = blockOf();
    const x = random(gpu, [2, 9, 8], 3);
    const whole = block.outputs(x);
    const state = block.createState({ batch: 2 });
    for (const [start, end] of [
      [0, 1],
      [1, 9],
    ] as const)
      gpu.scope(() => block.forward(rows(x, start, end), { state }));
    await expectSame(state.tensors["ssmState"]!, whole.ssmState);
    await expectSame(state.tensors["convState"]!, whole.convState);
    state.dispose();
  });

  it("begins as the paper does: A is -1..-N in every channel, steps lie in 0.001..0.1", async () => {
    const { gpu } = device;
    const p = MambaBlock.init(gpu, { dim: 32 }, { seed: 1 }).parameters();
    expect(Object.fromEntries(Object.entries(p).map(([name, t]) => [name, t.shape]))).toEqual({
      "in_proj.weight": [128, 32],
      "conv1d.weight": [64, 1, 4],
      "conv1d.bias": [64],
      "x_proj.weight": [34, 64],
      "dt_proj.weight": [64, 2],
      "dt_proj.bias": [64],
      A_log: [64, 16],
      D: [64],
      "out_proj.weight": [32, 64],
    });
    (await p["A_log"]!.read()).forEach((x, i) => {
      expect(Math.exp(x)).toBeCloseTo(1 + (i % 16), 4);
    });
    const steps = Array.from(await p["dt_proj.bias"]!.read(), (x) => Math.log1p(Math.exp(x)));
    expect(Math.min(...steps)).toBeGreaterThan(0.00099);
    expect(Math.max(...steps)).toBeLessThan(0.101);
    expect(Math.max(...steps) / Math.min(...steps)).toBeGreaterThan(20);
    for (const t of Object.values(p)) t.dispose();
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const block = blockOf();
    expect(() => MambaBlock.plan({ dim: 8, stateSize: 0 })).toThrow(/stateSize is 0/);
    expect(() => MambaBlock.plan({ dim: 8, expand: 2 } as never)).toThrow(/unknown key "expand"/);
    expect(() => block.forward(random(gpu, [1, 4, 7], 1))).toThrow(/x has shape \[1, 4, 7\]/);
    expect(() => block.forward(gpu.zeros([1, 4, 8], "i32"))).toThrow(/x is i32; it must be f32/);
    expect(() => block.forward(gpu.zeros([1, 0, 8]))).toThrow(/no tokens/);
    const state = block.createState({ batch: 2 });
    expect(() => block.forward(random(gpu, [1, 4, 8], 1), { state })).toThrow(
      /convState has shape \[2, 2, 12\]; it must be \[1, 2, 12\]/,
    );
    state.dispose();
  });
});
