import { describe, expect, it } from "vitest";
import { add, concat, slice, type Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import { expectSame, parametersOf, random } from "../../test-support.js";
import { Mamba2Block, type Mamba2Config } from "../index.js";
import { expectDecodes } from "../test-support.js";

describe("Mamba2Block", () => {
  const device = useGpu();
  const config = { dim: 8, numHeads: 4, headDim: 3, stateSize: 5, numGroups: 2, normGroups: 2, convSize: 3 };
  const blockOf = (change: Partial<Mamba2Config> = {}): Mamba2Block => {
    const own = { ...config, ...change };
    return new Mamba2Block(own, parametersOf(device.gpu, Mamba2Block.plan(own)));
  };

  it.each([[{}], [{ normBeforeGate: true, form: "recurrent" }], [{ chunkSize: 4, dtLimit: [0.01, 0.5] }]] as [
    Partial<Mamba2Config>,
  ][])("%o decodes what it computes at once, causally, in constant memory", async (change) => {
    await expectDecodes(device.gpu, blockOf(change), 8, 4 * 2 * (2 * (12 + 20) + 4 * 3 * 5));
  });

  it("is the same in all three forms", async () => {
    const x = random(device.gpu, [2, 37, 8], 3);
    const [parallel, recurrent, chunkwise] = (
      [{ form: "parallel" }, { form: "recurrent" }, { form: "chunkwise", chunkSize: 8 }] as const
    ).map((change) => blockOf(change).forward(x)) as [never, never, never];
    await expectSame(parallel, recurrent);
    await expectSame(chunkwise, recurrent);
  });

  it("the norm takes its mean in each part, before the gate or after it", async () => {
    const x = random(device.gpu, [1, 5, 8], 3);
    const values = async (change: Partial<Mamba2Config>): Promise<number[]> =>
      Array.from(await blockOf(change).forward(x).read());
    const all = [await values({}), await values({ normGroups: 1 }), await values({ normBeforeGate: true })];
    expect(all[0]).not.toEqual(all[1]);
    expect(all[0]).not.toEqual(all[2]);
  });

  it("biases of the projections are those of a feature that is always 1, and a constant; the convolution's may be absent", async () => {
    const { gpu } = device;
    const x = random(gpu, [1, 5, 8], 3);
    const own = { ...config, bias: true, convBias: false };
    const p = parametersOf(gpu, Mamba2Block.plan(own));
    const { "in_proj.bias": into, "out_proj.bias": outOf, ...weights }: Record<string, Tensor> = p;
    const weight = concat([weights["in_proj.weight"]!, into!.reshape([into!.size, 1])], 1);
    const wider: Record<string, Tensor> = {
      ...weights,
      "in_proj.weight": weight,
      "conv1d.bias": gpu.zeros([32]),
    };
    const padded = concat([wider["out_proj.weight"]!, gpu.zeros([1, 12])]);
    const plain = new Mamba2Block({ ...config, dim: 9 }, { ...wider, "out_proj.weight": padded });
    const expected = plain.forward(concat([x, gpu.full([1, 5, 1], 1)], 2));
    const got = new Mamba2Block(own, p).forward(x);
    await expectSame(got, add(slice(expected, { axis: 2, end: 8 }), outOf!));
  });

  it("a step without bounds is one with infinite ones", async () => {
    const x = random(device.gpu, [1, 5, 8], 3);
    const bounded = blockOf({ dtLimit: [0, Infinity] }).forward(x);
    expect(await bounded.read()).toEqual(await blockOf().forward(x).read());
    expect(() => Mamba2Block.plan({ ...config, dtLimit: [1, 0] })).toThrow(/dtLimit/);
    expect(() => Mamba2Block.plan({ ...config, dtLimit: [0, NaN] })).toThrow(/dtLimit/);
  });

  it("begins with A between -1 and -16", async () => {
    const own = { dim: 8, numHeads: 64, headDim: 2, stateSize: 4 };
    const p = Mamba2Block.init(device.gpu, own, { seed: 1 }).parameters();
    const decays = Array.from(await p["A_log"]!.read(), Math.exp);
    expect(Math.min(...decays)).toBeGreaterThan(0.999);
    expect(Math.max(...decays)).toBeLessThan(16.001);
    for (const t of Object.values(p)) t.dispose();
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const plan = (change: object) => () => Mamba2Block.plan({ ...config, ...change });
    expect(plan({ numGroups: 3 })).toThrow(/numHeads is 4, numGroups 3; the second must divide the first/);
    expect(plan({ normGroups: 5 })).toThrow(/numHeads headDim is 12, normGroups 5/);
    expect(plan({ innerDim: 12 })).toThrow(/unknown key "innerDim"/);
    const block = blockOf();
    expect(() => block.forward(random(gpu, [1, 4, 7], 1))).toThrow(/x has shape \[1, 4, 7\]/);
    expect(() => block.forward(gpu.zeros([1, 4, 8], "i32"))).toThrow(/x is i32; it must be f32/);
    expect(() => block.outputs(random(gpu, [1, 4, 8], 1), { convState: gpu.zeros([1, 2, 12]) })).toThrow(
      /convState has shape \[1, 2, 12\]; it must be \[1, 2, 32\]/,
    );
    expect(() => blockOf({ form: "wide" as never }).forward(random(gpu, [1, 4, 8], 1))).toThrow(
      /form is "wide"/,
    );
  });
});
