import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { modelConfig } from "../../families/index.js";
import { CausalLM } from "../../model/model.js";
import { someIds, tinyParts } from "../../test-support.js";

const device = useGpu();

describe("gshard with random second choices", () => {
  it("draws anew in each step by the seed, and tries every second choice outside training", async () => {
    const { gpu } = device;
    const ffn = { type: "gshard", hiddenDim: 8, numExperts: 4, secondPolicy: "random", secondThreshold: 1 };
    const config = modelConfig(tinyParts({ ffn }));
    const ids = gpu.tensor(someIds(40), [1, 40], "i32");
    const targets = gpu.tensor(someIds(40), [1, 40], "i32");
    const losses = async (seed: number, recorded: boolean): Promise<number[]> => {
      const model = CausalLM.init(gpu, config, { seed });
      const step = () => {
        const { crossEntropy } = model.loss(ids, targets, { training: true });
        model.afterStep();
        return crossEntropy;
      };
      const out: number[] = [];
      const recording = recorded ? gpu.record(step) : undefined;
      for (let i = 0; i < 3; i++) {
        if (i > 0) recording?.replay();
        const loss = recording ? recording.outputs : gpu.scope(step);
        out.push(await loss.item());
      }
      recording?.dispose();
      model.dispose();
      return out;
    };
    const plain = await losses(1, false);
    expect(new Set(plain).size).toBe(3);
    expect(await losses(1, false)).toEqual(plain);
    expect(await losses(1, true)).toEqual(plain);

    const all = CausalLM.init(gpu, modelConfig(tinyParts({ ffn: { ...ffn, secondPolicy: "all" } })), {
      seed: 1,
    });
    const random = CausalLM.init(gpu, config, { seed: 1 });
    const outside = async (model: CausalLM): Promise<number> => model.loss(ids, targets).crossEntropy.item();
    expect(await outside(random)).toBe(await outside(all));
    for (const model of [all, random]) model.dispose();
  });
});
