import { describe, expect, it } from "vitest";
import { concat, slice, type Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import { expectSame, parametersOf, random } from "../../test-support.js";
import { GatedDeltaNet, type GatedDeltaNetConfig } from "../index.js";
import { expectDecodes } from "../test-support.js";

describe("GatedDeltaNet", () => {
  const device = useGpu();
  const config = { dim: 8, numKeyHeads: 2, numValueHeads: 4, keyDim: 3, valueDim: 5, convSize: 3 };
  const layerOf = (change: Partial<GatedDeltaNetConfig> = {}): GatedDeltaNet => {
    const own = { ...config, ...change };
    return new GatedDeltaNet(own, parametersOf(device.gpu, GatedDeltaNet.plan(own)));
  };

  it.each([
    { chunkSize: 4 },
    { form: "recurrent", gateFn: "none", convBias: true, allowNegEigval: true },
    { projections: "byKeyHead", gateFn: "sigmoid" },
  ] as const)("%o decodes what it computes at once, causally, in constant memory", async (change) => {
    await expectDecodes(device.gpu, layerOf(change), 8, 4 * 2 * (2 * 32 + 4 * 3 * 5));
  });

  it("both forms are the same", async () => {
    const x = random(device.gpu, [2, 37, 8], 3);
    await expectSame(layerOf({ chunkSize: 8 }).forward(x), layerOf({ form: "recurrent" }).forward(x));
  });

  it.each(["silu", "none"] as const)(
    "projections fused by key head are the separate ones, gate %s",
    async (gateFn) => {
      const { gpu } = device;
      const own = { ...config, gateFn };
      const all = parametersOf(gpu, GatedDeltaNet.plan(own));
      const {
        "in_proj_qkv.weight": qkv,
        "in_proj_z.weight": z,
        "in_proj_b.weight": b,
        "in_proj_a.weight": a,
        ...rest
      } = all;
      const rows = (t: Tensor, start: number, count: number): Tensor =>
        slice(t, { axis: 0, start, end: start + count });
      const fused = [0, 1].flatMap((head) => [
        rows(qkv!, head * 3, 3),
        rows(qkv!, 6 + head * 3, 3),
        rows(qkv!, 12 + head * 10, 10),
        ...(z ? [rows(z, head * 10, 10)] : []),
      ]);
      const rates = [0, 1].flatMap((head) => [rows(b!, head * 2, 2), rows(a!, head * 2, 2)]);
      const byKeyHead = new GatedDeltaNet(
        { ...own, projections: "byKeyHead" },
        { ...rest, "in_proj_qkvz.weight": concat(fused), "in_proj_ba.weight": concat(rates) },
      );
      const x = random(gpu, [1, 5, 8], 3);
      await expectSame(byKeyHead.forward(x), new GatedDeltaNet(own, all).forward(x));
    },
  );

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const plan = (change: object) => () => GatedDeltaNet.plan({ ...config, ...change });
    expect(plan({ numKeyHeads: 3 })).toThrow(
      /numValueHeads is 4, numKeyHeads 3; the second must divide the first/,
    );
    expect(plan({ headDim: 12 })).toThrow(/unknown key "headDim"/);
    expect(plan({ form: "recurrent", chunkSize: 4 })).toThrow(/chunkSize is 4, form "recurrent"/);
    const layer = layerOf();
    expect(() => layer.forward(random(gpu, [1, 4, 7], 1))).toThrow(/x has shape \[1, 4, 7\]/);
    expect(() => layer.outputs(random(gpu, [1, 4, 8], 1), { state: gpu.zeros([1, 4, 5, 3]) })).toThrow(
      /state has shape \[1, 4, 5, 3\]; it must be \[1, 4, 3, 5\]/,
    );
  });
});
