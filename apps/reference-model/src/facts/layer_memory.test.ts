import { describe, expect, it } from "vitest";
import { add, matmul, mul } from "@x/kernels";
import { relativeError, useGpu } from "@x/testing";
import { modelConfig } from "../families/index.js";
import { LayerMemory } from "./layer_memory.js";
import { CausalLM } from "../model/model.js";
import { someIds, tinyParts } from "../test-support.js";

const device = useGpu();
const blocks: Record<string, Record<string, unknown>> = {
  "plain with biases": { ffn: { type: "ffn", activation: "gelu" } },
  gated: {},
  "gated with a norm inside": { placement: "subLn" },
  switch: { ffn: { type: "switch", hiddenDim: 24, numExperts: 4 } },
  "switch with plain experts": {
    ffn: { type: "switch", hiddenDim: 24, numExperts: 4, expertKind: "ffn", activation: "gelu" },
  },
  gshard: {
    ffn: { type: "gshard", hiddenDim: 24, numExperts: 4, secondPolicy: "threshold", secondThreshold: 0.4 },
  },
  "gshard with random second choices in training": {
    ffn: { type: "gshard", hiddenDim: 24, numExperts: 4, secondPolicy: "random" },
  },
  "deepseek with shared experts": {
    ffn: { type: "deepseek", hiddenDim: 12, numExperts: 6, topK: 3, numShared: 2, updateSpeed: 0.01 },
  },
  "deepseek v3": {
    ffn: { type: "deepseek", hiddenDim: 12, numExperts: 8, topK: 2, scoreFunction: "sigmoid", numGroups: 2 },
  },
  peer: { ffn: { type: "peer", numKeys: 6, numHeads: 3, topK: 4, queryDim: 8, queryNorm: "batch" } },
  "a mixture": { ffn: { type: "mixtral", hiddenDim: 24, numExperts: 4, topK: 2 } },
};

describe("a layer's memory", () => {
  it.each(Object.keys(blocks))("%s: keys times values is what the block puts out", async (name) => {
    const { gpu } = device;
    const model = CausalLM.init(gpu, modelConfig(tinyParts(blocks[name])), { seed: 2 });
    const open = new LayerMemory(model, 1);
    const ids = gpu.tensor(someIds(9), [1, 9], "i32");
    const { memory } = open;
    const product = gpu.scope(() => {
      const keys = open.keys(ids);
      const out = matmul(keys, memory.values(), { transposeB: true });
      keys.dispose();
      return gpu.keep(memory.bias ? add(out, memory.bias) : out);
    });
    const plain = gpu.scope(() => gpu.keep(model.forward(ids)));
    const zero = gpu.zeros([1, 9, model.config.dim]);
    const same = gpu.scope(() => gpu.keep(model.head(open.hidden(ids, zero))));
    expect(relativeError(await same.read(), await plain.read())).toBeLessThan(1e-6);
    // New values: the old ones and half of them again; the output must grow by half of the product.
    const half = gpu.scope(() => {
      const more = mul(product, 0.5);
      const bias = memory.bias;
      return gpu.keep(bias ? add(more, mul(bias, -0.5)) : more);
    });
    const changed = gpu.scope(() => gpu.keep(model.head(open.hidden(ids, half))));
    const values = gpu.scope(() => gpu.keep(mul(memory.values(), 1.5)));
    memory.write(values);
    const written = gpu.scope(() => gpu.keep(model.forward(ids)));
    expect(relativeError(await written.read(), await changed.read())).toBeLessThan(1e-5);
    for (const t of [ids, product, zero, same, plain, half, changed, values, written]) t.dispose();
    model.dispose();
  });

  it("refuses layers that there are not, and blocks that are no memory", () => {
    const { gpu } = device;
    const model = CausalLM.init(gpu, modelConfig(tinyParts({ ffn: { type: "kan", gridSize: 3 } })), {
      seed: 2,
    });
    expect(() => new LayerMemory(model, 2)).toThrow(/layer is 2; it must be in 0\.\.1/);
    expect(() => new LayerMemory(model, 0)).toThrow(/layer 0, kan, is no memory/);
    model.dispose();
  });
});
