import { describe, expect, it } from "vitest";
import { valueAndGrad } from "@x/kernels";
import { useGpu } from "@x/testing";
import { modelConfig } from "../../families/index.js";
import { CausalLM } from "../../model/model.js";
import { someIds, tinyParts } from "../../test-support.js";

const shape = { hiddenDim: 12, numExperts: 6 };
const stacks = ["experts.gate_proj", "experts.up_proj", "experts.down_proj"];
const below = (part: string): string[] =>
  ["gate_proj", "up_proj", "down_proj"].map((name) => `${part}.${name}.weight`);

/** The blocks of public families: the specification, and the parameters once a checkpoint's experts are stacked. */
const FAMILIES: Readonly<Record<string, readonly [Record<string, unknown>, readonly string[]]>> = {
  Mixtral: [{ type: "mixtral", ...shape, topK: 2 }, [...stacks, "gate.weight"]],
  "Qwen3-MoE": [{ type: "qwen2Moe", ...shape, topK: 3, normTopkProb: true }, [...stacks, "gate.weight"]],
  "Qwen2-MoE and Qwen3-Next": [
    { type: "qwen2Moe", ...shape, topK: 2, sharedDim: 20 },
    [...stacks, "gate.weight", ...below("shared_expert"), "shared_expert_gate.weight"],
  ],
  "gpt-oss": [
    { type: "gptOss", ...shape, topK: 2 },
    [...stacks, ...stacks.map((name) => `${name}_bias`), "router.weight", "router.bias"],
  ],
  "DeepSeek-V2": [
    {
      ...{ type: "deepseek", ...shape, topK: 2, numShared: 2, numGroups: 3, topkGroups: 2 },
      ...{ normTopkProb: false, routedScalingFactor: 2.5 },
    },
    [...stacks, "gate.weight", ...below("shared_experts")],
  ],
  "DeepSeek-V3": [
    {
      ...{ type: "deepseek", ...shape, topK: 3, numShared: 1, scoreFunction: "sigmoid", numGroups: 3 },
      ...{ topkGroups: 2, normTopkProb: true, routedScalingFactor: 2.5, correctionBias: true },
    },
    [...stacks, "gate.weight", "gate.e_score_correction_bias", ...below("shared_experts")],
  ],
};

describe("blocks of public families", () => {
  const device = useGpu();

  it.each(Object.keys(FAMILIES))("%s: parameters by their names, forward and backward", async (family) => {
    const { gpu } = device;
    const [ffn, names] = FAMILIES[family]!;
    const before = gpu.memory().liveBytes;
    const model = CausalLM.init(gpu, modelConfig(tinyParts({ ffn, numLayers: 1 })), { seed: 3 });
    const block = model.layers[0]!.ffn;
    const parameters = block.parameters();
    expect(Object.keys({ ...parameters, ...block.buffers?.() }).sort()).toEqual([...names].sort());
    const ids = gpu.tensor(someIds(40), [2, 20], "i32");
    const { value, grads } = valueAndGrad(
      () => model.loss(ids, ids, { training: true }).crossEntropy,
      parameters,
    );
    expect(Number.isFinite(await value.item())).toBe(true);
    for (const [name, grad] of Object.entries(grads)) {
      expect([name, Array.from(await grad.read()).some((g) => g !== 0)]).toEqual([name, true]);
      grad.dispose();
    }
    for (const t of [value, ids]) t.dispose();
    model.dispose();
    expect(gpu.memory().liveBytes).toBe(before);
  });
});
