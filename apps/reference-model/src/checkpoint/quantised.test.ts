import { mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Safetensors, writeSafetensors } from "@x/kernels/safetensors";
import { repository, useGpu } from "@x/testing";
import { convertQuantised } from "../commands/convert/quantised.js";
import { writeStory } from "../corpus/stories.js";
import { modelConfig } from "../families/index.js";
import { generate } from "../model/generate.js";
import { CausalLM } from "../model/model.js";
import { perplexity } from "../training/evaluate.js";
import { someIds, tinyParts } from "../test-support.js";
import { withBlocks } from "./blocks.js";
import { GgufFile } from "./gguf/gguf_file.js";
import { loadCheckpoint, loadFolderTokenizer } from "./load.js";
import { quantised, type Quants } from "./quantised.js";
import { saveCheckpoint } from "./save.js";
import { modelSource } from "./source.js";
import type { StoredTensor } from "./stored.js";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "x-quantised-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const fixture = (name: string): string => join(repository, "tooling/fixtures/models", name);

/** Writes a model in blocks; the path of what was written. */
async function written(model: string, quantize: Quants): Promise<string> {
  const out = join(mkdtempSync(join(folder, "model-")), "out");
  await convertQuantised({ model, out, quantize });
  return out;
}

/** The types of a written model's tensors. */
async function types(out: string): Promise<Map<string, string>> {
  const gguf = await readFile(join(out, "model.gguf")).catch(() => undefined);
  if (gguf) {
    const { tensors } = await GgufFile.parse(out, gguf);
    return new Map([...tensors].map(([name, { type }]) => [name, type.name]));
  }
  const file = await Safetensors.parse(out, await readFile(join(out, "model.safetensors")));
  return new Map(file.names.map((name) => [name, file.entry(name).dtype]));
}

describe("models in 8 and 4 bits", () => {
  const device = useGpu();
  const ids = someIds(12, 170);

  /** Cross-entropy of ids, the greedy continuation, and the bytes on the device. */
  async function figures(path: string): Promise<{ loss: number; text: number[]; bytes: number }> {
    const { gpu } = device;
    const before = gpu.memory().liveBytes;
    const { model } = await loadCheckpoint(gpu, path, { stored: true });
    const bytes = gpu.memory().liveBytes - before;
    const loss = await gpu
      .scope(
        () =>
          model.loss(
            gpu.tensor(ids, [1, ids.length], "i32"),
            gpu.tensor(someIds(ids.length + 1, 170).slice(1), [1, ids.length], "i32"),
          ).crossEntropy,
      )
      .item();
    const { ids: text } = await generate(model, ids, { maxNewTokens: 4, temperature: 0, ignoreEos: true });
    model.dispose();
    return { loss, text, bytes };
  }

  it("the bundled model: 8 bits change the perplexity of unseen stories by less than 0.1 %", async () => {
    const { gpu } = device;
    const bundled = join(repository, "apps/reference-model/checkpoint");
    const out = await written(bundled, "q8");
    const stories = [900_001, 900_002, 900_003].map(writeStory);
    const measured: number[] = [];
    for (const path of [bundled, out]) {
      const { model } = await loadCheckpoint(gpu, path, { stored: true });
      const tokenizer = (await loadFolderTokenizer(path))!;
      measured.push((await perplexity(gpu, model, tokenizer, stories)).perplexity);
      model.dispose();
    }
    expect(Math.abs(measured[1]! / measured[0]! - 1)).toBeLessThan(1e-3);
  });

  for (const name of ["mistral", "mamba", "deepseek_v2-lite", "gpt_oss-mxfp4", "qwen3_next", "rwkv"])
    it(`${name}: 8 bits are within half a step, generate, and take less memory; norms and biases stay F32`, async () => {
      const out = await written(fixture(name), "q8");
      const [source, again] = await Promise.all([modelSource(fixture(name)), modelSource(out)]);
      const [before, after] = [await source.open(), await again.open()];
      let blocks = 0;
      for (const [tensor, stored] of after.tensors) {
        const { type, shape } = stored;
        const given = before.tensors.get(tensor)!;
        expect(shape, tensor).toEqual(given.shape);
        const [wanted, numbers] = [await given.floats(), await stored.floats()];
        if (type === "Q8_0") blocks++;
        for (let at = 0; at < wanted.length; at += 32) {
          const block = Array.from(wanted.subarray(at, at + 32));
          const most = Math.max(...block.map(Math.abs));
          const worst = Math.max(...block.map((x, i) => Math.abs(x - numbers[at + i]!)));
          const step = type === "Q8_0" ? most / 254 : 0;
          // The rounding of a step, or of a number, to a half, and that of Mamba's exponential.
          expect(worst, tensor).toBeLessThanOrEqual(step + most * 2 ** -11 + 1e-7);
        }
        if (/norm|bias|\.mlp\.gate\.weight|sinks|A_log|time_/.test(tensor)) expect(type, tensor).toBe("F32");
      }
      expect(blocks).toBeGreaterThan(3);
      await Promise.all([before.close(), after.close()]);
      const [whole, eight] = [await figures(fixture(name)), await figures(out)];
      expect(eight.text).toHaveLength(4);
      expect(eight.bytes).toBeLessThan(0.75 * whole.bytes);
    });

  it("4 bits: the matrix of the logits keeps 8, in GGUF and in a folder", async () => {
    const gguf = await types(await written(fixture("mistral"), "q4"));
    expect(gguf.get("blk.0.ffn_down.weight")).toBe("Q4_0");
    expect(gguf.get("output.weight")).toBe("Q8_0");
    const out = await written(fixture("deepseek_v2-lite"), "q4");
    const names = [...(await types(out)).keys()];
    expect(names).toContain("model.layers.0.mlp.down_proj.weight.q4_0");
    expect(names).toContain("lm_head.weight.q8_0");
    const [whole, four] = [await figures(fixture("deepseek_v2-lite")), await figures(out)];
    expect(Math.abs(Math.exp(four.loss - whole.loss) - 1)).toBeLessThan(0.1);
  });

  it("matrices that a family stores with inputs first lie with outputs first, and stay in blocks on the device", async () => {
    const { gpu } = device;
    const parts = tinyParts({ dim: 32 });
    const sizes = { hidden_size: 32, intermediate_size: 32, vocab_size: 40, num_hidden_layers: 1 };
    const heads = { num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16, num_local_experts: 2 };
    const json = {
      ...sizes,
      ...heads,
      model_type: "gpt_oss",
      num_experts_per_tok: 1,
      max_position_embeddings: 64,
    };
    for (const config of [json, parts]) {
      const path = mkdtempSync(join(folder, "own-"));
      const model = CausalLM.init(gpu, modelConfig(config), { seed: 5 });
      await saveCheckpoint(path, model, config);
      const out = await written(path, "q8");
      const { model: again } = await loadCheckpoint(gpu, out, { stored: true });
      const { model: widened } = await loadCheckpoint(gpu, out);
      const input = gpu.tensor(someIds(8), [1, 8], "i32");
      const logits = gpu.scope(() => [model, again, widened].map((one) => one.forward(input)));
      const [a, b, c] = (await Promise.all(logits.map((one) => one.read()))).map((x) => Array.from(x));
      const far = (x: number[], y: number[]): number => Math.max(...x.map((n, i) => Math.abs(n - y[i]!)));
      expect(far(b!, c!)).toBeLessThan(1e-4);
      expect(far(a!, b!)).toBeLessThan(0.02 * Math.max(...a!.map(Math.abs)));
      const kept = Object.values(again.state()).filter(({ dtype }) => dtype === "q8_0").length;
      expect(kept).toBeGreaterThan(5);
      if (config === json)
        expect([...(await types(out)).keys()]).toContain(
          "model.layers.0.mlp.experts.gate_up_proj.q8_0_transposed",
        );
      for (const tensor of [input, ...logits]) tensor.dispose();
      for (const one of [model, again, widened]) one.dispose();
    }
  });

  it("a folder in blocks that is converted to numbers no longer says that it has blocks", async () => {
    const out = await written(fixture("deepseek_v2-lite"), "q8");
    const { model, json } = await loadCheckpoint(device.gpu, out);
    expect(json["quantization_config"]).toEqual({ quant_method: "ggml", type: "q8_0" });
    const plain = join(folder, "plain");
    await saveCheckpoint(plain, model, json);
    model.dispose();
    expect(JSON.parse(await readFile(join(plain, "config.json"), "utf8"))).not.toHaveProperty(
      "quantization_config",
    );
  });
});

describe("what is refused", () => {
  it("a folder of another model, matrices without whole blocks, numbers that are not finite", async () => {
    const out = await written(fixture("mistral"), "q8");
    await expect(convertQuantised({ model: fixture("mistral"), out, quantize: "q4" })).rejects.toThrow(
      /holds model\.gguf, another model; name a new folder/,
    );
    await expect(written(fixture("smollm3"), "q8")).rejects.toThrow(
      /has no matrix whose rows are multiples of 32 numbers/,
    );
    expect(() => quantised("w", new Float32Array(32).fill(NaN), "Q4_0")).toThrow(
      /w: cannot be quantised: .*element 0 is NaN/,
    );
  });

  it("blocks whose rows are not whole, and a tensor that is there twice", async () => {
    const tensor = (name: string, type: string, shape: number[]): [string, StoredTensor] => [
      name,
      {
        file: "f",
        name,
        type,
        shape,
        readable: true,
        refusal: "",
        floats: () => Promise.reject(new Error()),
      },
    ];
    expect(() => withBlocks(new Map([tensor("w.q8_0", "U8", [2, 33])]))).toThrow(
      /"w\.q8_0" has shape \[2, 33\]; a row of Q8_0 is a whole number of blocks of 34 bytes/,
    );
    expect(() => withBlocks(new Map([tensor("w.q8_0", "U8", [2, 34]), tensor("w", "F32", [2, 32])]))).toThrow(
      /"w" is there as numbers and as blocks/,
    );
    // Numbers whose name ends so are numbers.
    const named = await Safetensors.parse(
      "f",
      writeSafetensors({ "w.q8_0": { shape: [1], data: new Float32Array(1) } }),
    );
    expect(withBlocks(new Map([tensor(named.names[0]!, "F32", [1])])).has("w.q8_0")).toBe(true);
  });
});
