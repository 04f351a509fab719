import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { parametersOf, random } from "../../test-support.js";
import { Rwkv4ChannelMix, Rwkv4TimeMix } from "../index.js";
import { expectDecodes } from "../test-support.js";

describe("RWKV-4", () => {
  const device = useGpu();

  it("time mixing decodes what it computes at once, causally, in constant memory", async () => {
    const config = { dim: 8, attentionDim: 12 };
    const layer = new Rwkv4TimeMix(config, parametersOf(device.gpu, Rwkv4TimeMix.plan(config)));
    await expectDecodes(device.gpu, layer, 8, 4 * 2 * (8 + 3 * 12));
  });

  it("channel mixing too: its state is one token", async () => {
    const config = { dim: 8, ffnDim: 20 };
    const layer = new Rwkv4ChannelMix(config, parametersOf(device.gpu, Rwkv4ChannelMix.plan(config)));
    await expectDecodes(device.gpu, layer, 8, 4 * 2 * 8);
  });

  it("begins with channels that remember long and channels that forget at once", async () => {
    const layer = Rwkv4TimeMix.init(device.gpu, { dim: 16 }, { seed: 1 });
    const decay = Array.from(await layer.parameters()["time_decay"]!.read());
    expect([decay[0], decay[15]]).toEqual([-5, 3]);
    for (const t of Object.values(layer.parameters())) t.dispose();
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    expect(() => Rwkv4TimeMix.plan({ dim: 0 })).toThrow(/dim is 0/);
    expect(() => Rwkv4ChannelMix.plan({ dim: 8, hiddenDim: 8 } as never)).toThrow(/unknown key "hiddenDim"/);
    const layer = new Rwkv4TimeMix({ dim: 8 }, parametersOf(gpu, Rwkv4TimeMix.plan({ dim: 8 })));
    expect(() => layer.forward(random(gpu, [1, 4, 7], 1))).toThrow(/x has shape \[1, 4, 7\]/);
    expect(() => layer.forward(gpu.zeros([1, 4, 8], "i32"))).toThrow(/x is i32; it must be f32/);
    expect(() => layer.outputs(random(gpu, [1, 4, 8], 1), { prev: random(gpu, [1, 7], 1) })).toThrow(
      /prev has shape \[1, 7\]; it must be \[1, 8\]/,
    );
  });
});
