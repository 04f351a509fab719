import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeSafetensors, type TensorData } from "@x/kernels/safetensors";
import { repository, useGpu } from "@x/testing";
import { generate } from "../../model/generate.js";
import { assemble } from "../assemble.js";
import { loadCheckpoint, type LoadOptions } from "../load.js";
import { saveCheckpoint } from "../save.js";
import { modelSource } from "../source.js";
import { convertQuantised } from "../../commands/convert/quantised.js";
import { mergedSource } from "./adapted.js";
import { readAdapter } from "./peft.js";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "x-adapter-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const fixture = (name: string): string => join(repository, "tooling/fixtures/models", name);
const fresh = (): string => mkdtempSync(join(folder, "one-"));

type Numbers = readonly [shape: readonly number[], data: Float32Array];

/** Numbers of a stream of their own, of about this size. */
function some(seed: number, size: number, ...shape: number[]): TensorData {
  let state = seed * 7919 + 17;
  const next = (): number => ((state = (state * 1103515245 + 12345) % 2147483648) / 1073741824 - 1) * size;
  return { shape, data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, next) };
}

function peftFolder(config: Record<string, unknown>, tensors: Record<string, TensorData>): string {
  const path = fresh();
  const named = Object.entries(tensors).map(
    ([name, tensor]) => [`base_model.model.${name}`, tensor] as const,
  );
  writeFileSync(join(path, "adapter_config.json"), JSON.stringify({ peft_type: "LORA", ...config }));
  writeFileSync(join(path, "adapter_model.safetensors"), writeSafetensors(Object.fromEntries(named)));
  return path;
}

/** The tensors of a fixture by their names in its folder. */
async function tensorsOf(path: string): Promise<Map<string, Numbers>> {
  const opened = await (await modelSource(path)).open();
  const out = new Map<string, Numbers>();
  for (const [name, tensor] of opened.tensors)
    if (tensor.readable) out.set(name, [tensor.shape, await tensor.floats()]);
  await opened.close();
  return out;
}

/** A folder with the fixture's files and these weights. */
async function folderOf(path: string, tensors: Map<string, Numbers>): Promise<string> {
  const out = fresh();
  await cp(path, out, { recursive: true });
  const all = [...tensors].map(([name, [shape, data]]) => [name, { shape, data }] as const);
  writeFileSync(join(out, "model.safetensors"), writeSafetensors(Object.fromEntries(all)));
  return out;
}

/** W + scale B A in float64; `conv` where the folder holds [in, out]. */
function plus([shape, data]: Numbers, a: TensorData, b: TensorData, scale: number, conv = false): Numbers {
  const [rank = 0, width = 0] = a.shape;
  const out = b.shape[0]!;
  const sum = Float32Array.from(data);
  for (let i = 0; i < out; i++)
    for (let j = 0; j < width; j++) {
      let dot = 0;
      for (let r = 0; r < rank; r++) dot += b.data[i * rank + r]! * a.data[r * width + j]!;
      const at = conv ? j * out + i : i * width + j;
      sum[at] = data[at]! + scale * dot;
    }
  return [shape, sum];
}

/** Modules of a fixture that an adapter changes: their names in its folder, and what is common to them. */
const CASES = {
  llama: {
    modules: ["q_proj", "v_proj", "o_proj", "down_proj", "gate_proj"].map((m) =>
      /o_|q_|v_/.test(m) ? `self_attn.${m}` : `mlp.${m}`,
    ),
    at: "model.layers",
  },
  phi3: { modules: ["self_attn.qkv_proj", "mlp.gate_up_proj", "self_attn.o_proj"], at: "model.layers" },
  gpt2: {
    modules: ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    at: "transformer.h",
    conv: true,
  },
  mixtral: {
    modules: ["self_attn.k_proj", "block_sparse_moe.experts.1.w2", "block_sparse_moe.gate"],
    at: "model.layers",
  },
  "deepseek_v2-lite": {
    modules: ["self_attn.q_proj", "self_attn.kv_b_proj", "self_attn.o_proj"],
    at: "model.layers",
  },
  gemma2: { modules: ["self_attn.q_proj", "mlp.up_proj"], at: "model.layers" },
} as const;

describe("LoRA adapters of PEFT folders", () => {
  const device = useGpu();
  const ids = [5, 9, 2, 11, 7];

  async function logitsOf(
    load: () => ReturnType<typeof loadCheckpoint>,
  ): Promise<{ logits: number[]; loss: number; text: number[] }> {
    const { gpu } = device;
    const before = gpu.memory().liveBytes;
    const { model } = await load();
    const input = gpu.tensor(ids, [1, ids.length], "i32");
    const logits = gpu.scope(() => model.forward(input));
    const nll = gpu.scope(() => model.loss(input, input).crossEntropy);
    const loss = await nll.item();
    const { ids: text } = await generate(model, ids, { maxNewTokens: 4, temperature: 0, ignoreEos: true });
    const numbers = Array.from(await logits.read());
    for (const tensor of [input, nll, logits]) tensor.dispose();
    model.dispose();
    expect(gpu.memory().liveBytes).toBe(before);
    return { logits: numbers, loss, text };
  }
  const loaded = (path: string, options: LoadOptions = {}): ReturnType<typeof logitsOf> =>
    logitsOf(() => loadCheckpoint(device.gpu, path, options));
  const far = (x: number[], y: number[]): number => Math.max(...x.map((n, i) => Math.abs(n - y[i]!)));

  for (const [name, { modules, at, ...rest }] of Object.entries(CASES))
    it(`${name}: on top and merged, the results of weights that were added up in float64`, async () => {
      const conv = "conv" in rest;
      const weights = await tensorsOf(fixture(name));
      const own = [...weights.keys()].some((key) => key.startsWith(`${at}.`)) ? at : at.replace(/^\w+\./, "");
      const tensors: Record<string, TensorData> = {};
      modules.forEach((module, i) => {
        const full = `${own}.0.${module}`;
        const [shape] = weights.get(`${full}.weight`)!;
        const [out, width] = (conv ? shape.toReversed() : shape) as [number, number];
        // One module has another rank and another alpha.
        const rank = i === 0 ? 3 : 2;
        const [a, b] = [some(i + 1, 0.3, rank, width), some(i + 50, 0.3, out, rank)];
        tensors[`${at}.0.${module}.lora_A.weight`] = a;
        tensors[`${at}.0.${module}.lora_B.weight`] = b;
        const key = `${full}.weight`;
        weights.set(key, plus(weights.get(key)!, a, b, i === 0 ? 5 / Math.sqrt(3) : 4 / Math.sqrt(2), conv));
      });
      const first = modules[0].split(".").at(-1)!;
      const config = {
        r: 2,
        lora_alpha: 4,
        use_rslora: true,
        fan_in_fan_out: conv,
        target_modules: modules.map((module) => `0.${module}`),
        rank_pattern: { [first]: 3 },
        alpha_pattern: { [`.*\\.${first}`]: 5 },
      };
      const adapters = [await readAdapter(peftFolder(config, tensors))];
      const wanted = await loaded(await folderOf(fixture(name), weights));
      const plain = await loaded(fixture(name));
      const beside = await loaded(fixture(name), { adapters, stored: true });
      const source = mergedSource(await modelSource(fixture(name)), adapters);
      const merged = await logitsOf(() => assemble(device.gpu, source));
      expect(far(plain.logits, wanted.logits)).toBeGreaterThan(0.01);
      for (const found of [beside, merged]) {
        expect(far(found.logits, wanted.logits)).toBeLessThan(
          5e-4 * Math.max(1, ...wanted.logits.map(Math.abs)),
        );
        expect(Math.abs(found.loss - wanted.loss)).toBeLessThan(1e-3);
        expect(found.text).toEqual(wanted.text);
      }
    });

  it("a quantised weight stays as it is stored; two adapters add up; a merged folder has the family's names", async () => {
    const { gpu } = device;
    const out = join(fresh(), "q8");
    await convertQuantised({ model: fixture("mistral"), out, quantize: "q8" });
    const config = { r: 2, lora_alpha: 2, target_modules: "all-linear" };
    const [q, down] = ["model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj"];
    const dims = async (name: string): Promise<readonly number[]> =>
      (await tensorsOf(fixture("mistral"))).get(`${name}.weight`)![0];
    const one = async (name: string, seed: number): Promise<string> => {
      const [rows, columns] = (await dims(name)) as [number, number];
      return peftFolder(config, {
        [`${name}.lora_A.weight`]: some(seed, 0.3, 2, columns),
        [`${name}.lora_B.weight`]: some(seed + 1, 0.3, rows, 2),
      });
    };
    const adapters = await Promise.all(
      [one(q, 3), one(down, 8)].map(async (path) => readAdapter(await path)),
    );
    const { model } = await loadCheckpoint(gpu, out, { adapters, stored: true });
    expect(model.state()[`${down}.weight`]!.dtype).toBe("q8_0");
    model.dispose();
    const beside = await loaded(out, { adapters, stored: true });
    const source = mergedSource(await modelSource(out), adapters);
    const merged = await logitsOf(() => assemble(gpu, source));
    expect(far(beside.logits, merged.logits)).toBeLessThan(1e-3 * Math.max(...merged.logits.map(Math.abs)));
    const { model: whole, json } = await assemble(gpu, source);
    const saved = fresh();
    await saveCheckpoint(saved, whole, json);
    whole.dispose();
    expect([...(await tensorsOf(saved)).keys()].sort()).toEqual(
      [...(await tensorsOf(fixture("mistral"))).keys()].sort(),
    );
    expect(far((await loaded(saved)).logits, merged.logits)).toBeLessThan(1e-5);
  });

  it("an embedding, a head that is tied to it, and tensors that are given whole", async () => {
    const tied = fixture("gemma2");
    const weights = await tensorsOf(tied);
    const embedding = [...weights.keys()].find((name) => name.endsWith("embed_tokens.weight"))!;
    const [[vocab, dim]] = weights.get(embedding)! as [[number, number], Float32Array];
    const norm = some(9, 0.2, dim);
    // PEFT's factors of an embedding are [rank, tokens] and [dim, rank], and their product is transposed.
    const [a, b] = [some(1, 0.3, 2, vocab), some(2, 0.3, dim, 2)];
    const module = embedding.replace(/\.weight$/, "");
    const normName = [...weights.keys()].find((name) => /(^|\.)norm\.weight$/.test(name))!;
    const path = peftFolder(
      { r: 2, lora_alpha: 2, target_modules: ["embed_tokens"], modules_to_save: ["model.norm", "norm"] },
      { [`${module}.lora_embedding_A`]: a, [`${module}.lora_embedding_B`]: b, [normName]: norm },
    );
    weights.set(embedding, plus(weights.get(embedding)!, a, b, 1, true));
    weights.set(normName, [[dim], norm.data as Float32Array]);
    const wanted = await loaded(await folderOf(tied, weights));
    const found = await loaded(tied, { adapters: [await readAdapter(path)] });
    expect(far(found.logits, wanted.logits)).toBeLessThan(1e-4 * Math.max(1, ...wanted.logits.map(Math.abs)));
    const head = peftFolder(
      { r: 2, target_modules: ["lm_head"] },
      { "lm_head.lora_A.weight": some(1, 0.3, 2, dim), "lm_head.lora_B.weight": some(2, 0.3, vocab, 2) },
    );
    const adapters = [await readAdapter(head)];
    const [plain, top] = [await loaded(tied), await loaded(tied, { adapters })];
    expect(far(plain.logits, top.logits)).toBeGreaterThan(0.01);
    expect(Math.abs(plain.loss - top.loss)).toBeGreaterThan(1e-3);
    const source = mergedSource(await modelSource(tied), adapters);
    await expect(assemble(device.gpu, source)).rejects.toThrow(/ties to its embedding/);
  });

  it("refuses an adapter of another model before anything is on the device", async () => {
    const { gpu } = device;
    const before = gpu.memory().liveBytes;
    const load = async (
      config: Record<string, unknown>,
      tensors: Record<string, TensorData>,
    ): Promise<unknown> => {
      const adapters = [
        await readAdapter(peftFolder({ r: 2, target_modules: ["q_proj"], ...config }, tensors)),
      ];
      return loadCheckpoint(gpu, fixture("llama"), { adapters });
    };
    const factors = (name: string, width: number, rows: number): Record<string, TensorData> => ({
      [`${name}.lora_A.weight`]: some(1, 1, 2, width),
      [`${name}.lora_B.weight`]: some(2, 1, rows, 2),
    });
    const q = (layer: number): string => `model.layers.${layer}.self_attn.q_proj`;
    await expect(load({ layers_to_transform: [0] }, factors(q(0), 40, 48))).rejects.toThrow(
      /q_proj\.weight as a matrix \[48, 40\]; the model has \[\d+, 48\]/,
    );
    await expect(load({}, factors(q(0), 48, 48))).rejects.toThrow(/for which it holds no factors/);
    await expect(load({ layers_to_transform: 7 }, factors(q(7), 48, 48))).rejects.toThrow(
      /changes model\.layers\.7\.self_attn\.q_proj\.weight, which .* does not have/,
    );
    expect(gpu.memory().liveBytes).toBe(before);
  });
});
