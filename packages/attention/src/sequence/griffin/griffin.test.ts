import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { expectSame, parametersOf, random, rows } from "../../test-support.js";
import { GriffinBlock } from "../index.js";
import { expectDecodes } from "../test-support.js";

describe("GriffinBlock", () => {
  const device = useGpu();
  const config = { dim: 8, lruWidth: 12, numBlocks: 3, convSize: 3 };
  const blockOf = (change: { readonly wholeFirst?: boolean } = {}): GriffinBlock =>
    new GriffinBlock({ ...config, ...change }, parametersOf(device.gpu, GriffinBlock.plan(config)));

  it("decodes what it computes at once, causally, in constant memory, the bytes as the state's shape says", async () => {
    await expectDecodes(device.gpu, blockOf(), 8, 4 * 2 * 12 * 3);
  });

  it("a first token that enters whole: also in pieces, and as where a document begins", async () => {
    const { gpu } = device;
    const block = blockOf({ wholeFirst: true });
    await expectDecodes(gpu, block, 8, 4 * 2 * (12 * 3 + 1));
    const x = random(gpu, [2, 9, 8], 3);
    const positions = Int32Array.from({ length: 18 }, (_, i) => i % 9);
    const begun = blockOf().forward(x, { segmentPos: gpu.tensor(positions, [2, 9], "i32") });
    await expectSame(block.forward(x), begun);
    expect(await blockOf().forward(x).read()).not.toEqual(await begun.read());
    const { convState, state, position } = block.outputs(x);
    expect([...(await position!.read())]).toEqual([9, 9]);
    expect(() => block.outputs(x, { convState, state })).toThrow(/wholeFirst is true, position is missing/);
  });

  it("a packed document is computed as it is alone, the convolution included", async () => {
    const { gpu } = device;
    const block = blockOf();
    const x = random(gpu, [2, 17, 8], 3);
    const positions = Int32Array.from({ length: 34 }, (_, i) => (i % 17 < 9 ? i % 17 : (i % 17) - 9));
    const packed = block.forward(x, { segmentPos: gpu.tensor(positions, [2, 17], "i32") });
    const alone = gpu.tensor(
      Int32Array.from({ length: 16 }, (_, i) => i % 8),
      [2, 8],
      "i32",
    );
    await expectSame(rows(packed, 9, 17), block.forward(rows(x, 9, 17), { segmentPos: alone }));
  });

  it("begins with |a| between 0.9 and 0.999", async () => {
    const { gpu } = device;
    const p = GriffinBlock.init(gpu, { dim: 64 }, { seed: 1 }).parameters();
    const radii = Array.from(await p["rg_lru.recurrent_param"]!.read(), (x) =>
      Math.exp(-Math.log1p(Math.exp(x))),
    );
    expect(Math.min(...radii)).toBeGreaterThan(0.9 - 1e-3);
    expect(Math.max(...radii)).toBeLessThan(0.999 + 1e-4);
    for (const t of Object.values(p)) t.dispose();
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const block = blockOf();
    expect(() => GriffinBlock.plan({ dim: 8, numBlocks: 3 })).toThrow(/lruWidth is 8, numBlocks 3/);
    expect(() => GriffinBlock.plan({ dim: 8, width: 8 } as never)).toThrow(/unknown key "width"/);
    expect(() => block.forward(random(gpu, [1, 4, 7], 1))).toThrow(/x has shape \[1, 4, 7\]/);
    expect(() => block.forward(gpu.zeros([1, 4, 8], "i32"))).toThrow(/x is i32; it must be f32/);
    expect(() => block.forward(random(gpu, [1, 4, 8], 1), { segmentPos: gpu.zeros([1, 3], "i32") })).toThrow(
      /segmentPos has shape \[1, 3\]; it must be \[1, 4\]/,
    );
  });
});
