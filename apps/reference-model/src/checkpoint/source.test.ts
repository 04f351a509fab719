import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ConfigError, KernelsError } from "@x/kernels";
import { repository } from "@x/testing";
import type { WrittenValue } from "./gguf/architectures/index.js";
import { f32Bytes, ggufOf, type TestTensor } from "./gguf/test-support.js";
import { filesBeside, loadFolderTokenizer, readConfig } from "./load.js";
import { modelSource } from "./source.js";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "x-source-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const u32 = (value: number): WrittenValue => ({ type: "u32", value });
const f32 = (value: number): WrittenValue => ({ type: "f32", value });
const string = (value: string): WrittenValue => ({ type: "string", value });

const LLAMA: Readonly<Record<string, WrittenValue>> = {
  "general.architecture": string("llama"),
  "llama.context_length": u32(64),
  "llama.embedding_length": u32(8),
  "llama.block_count": u32(1),
  "llama.feed_forward_length": u32(12),
  "llama.attention.head_count": u32(2),
  "llama.attention.head_count_kv": u32(1),
  "llama.attention.layer_norm_rms_epsilon": f32(1e-5),
};
const embedding: TestTensor = {
  name: "token_embd.weight",
  type: "F32",
  shape: [5, 8],
  data: f32Bytes(...Array.from({ length: 40 }, (_, i) => i)),
};

/** A folder with a file of that metadata. */
async function fileOf(
  metadata: Readonly<Record<string, WrittenValue>>,
  tensors: readonly TestTensor[] = [embedding],
): Promise<string> {
  const path = mkdtempSync(join(folder, "gguf-"));
  writeFileSync(join(path, "model.gguf"), await ggufOf(metadata, tensors));
  return path;
}

describe("what a model's path may be", () => {
  it("a folder with config.json, a folder with one .gguf file, or that file", async () => {
    const path = await fileOf(LLAMA);
    const file = join(path, "model.gguf");
    expect((await modelSource(path)).path).toBe(file);
    expect((await modelSource(file)).path).toBe(file);
    writeFileSync(join(path, "config.json"), "{}");
    expect((await modelSource(path)).path).toBe(path);
  });

  it("anything else is an error that says what was found and what is looked for", async () => {
    const wanted = "; a model is a folder with config.json, a folder with one .gguf file, or that file";
    const empty = mkdtempSync(join(folder, "empty-"));
    await expect(modelSource(empty)).rejects.toThrow(`holds neither config.json nor a .gguf file${wanted}`);
    await expect(modelSource(join(empty, "none"))).rejects.toThrow(
      `there is no such file or folder${wanted}`,
    );
    writeFileSync(join(empty, "notes.txt"), "");
    await expect(modelSource(join(empty, "notes.txt"))).rejects.toThrow("is a file without the ending .gguf");
    for (const name of ["b.gguf", "a.gguf"]) writeFileSync(join(empty, name), "");
    await expect(modelSource(empty)).rejects.toThrow("holds 2 .gguf files (a.gguf, b.gguf)");
    await expect(readConfig(join(empty, "a.gguf"))).rejects.toThrow(/a\.gguf: has 0 bytes/);
  });

  it("a tokenizer is read of folders that hold no model yet", async () => {
    expect(await loadFolderTokenizer(mkdtempSync(join(folder, "none-")))).toBeUndefined();
    expect(await filesBeside(join(repository, "tooling/fixtures/models/llama"))).toEqual({});
  });
});

describe("a GGUF file's metadata as config.json", () => {
  const json = async (...given: Parameters<typeof fileOf>): Promise<Record<string, unknown>> =>
    (await readConfig(await fileOf(...given))).json;

  it("Llama: keys, tied embeddings without output.weight, short decimals", async () => {
    expect(
      await json({ ...LLAMA, "llama.rope.freq_base": f32(5e5), "tokenizer.ggml.eos_token_id": u32(2) }),
    ).toEqual({
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      max_position_embeddings: 64,
      hidden_size: 8,
      num_hidden_layers: 1,
      intermediate_size: 12,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      rms_norm_eps: 1e-5,
      rope_theta: 5e5,
      eos_token_id: 2,
      vocab_size: 5,
      tie_word_embeddings: true,
      attention_bias: false,
      mlp_bias: false,
    });
    const output = { ...embedding, name: "output.weight" };
    expect(await json(LLAMA, [embedding, output])).toMatchObject({ tie_word_embeddings: false });
  });

  it("heads, biases, windows, experts, the end of a turn, lists with one value for all layers", async () => {
    expect(await json({ ...LLAMA, "llama.attention.key_length": u32(6) })).toMatchObject({ head_dim: 6 });
    expect(await json({ ...LLAMA, "llama.attention.sliding_window": u32(16) })).toMatchObject({
      model_type: "mistral",
      sliding_window: 16,
    });
    const experts = { "llama.expert_count": u32(4), "llama.expert_used_count": u32(2) };
    expect(await json({ ...LLAMA, ...experts })).toMatchObject({
      model_type: "mixtral",
      num_local_experts: 4,
      num_experts_per_tok: 2,
    });
    const bias = {
      name: "blk.0.attn_q.bias",
      type: "F32",
      shape: [8],
      data: f32Bytes(...Array<number>(8).fill(0)),
    };
    expect(await json(LLAMA, [embedding, bias])).toMatchObject({ attention_bias: true, mlp_bias: false });
    const ends = { "tokenizer.ggml.eos_token_id": u32(1), "tokenizer.ggml.eot_token_id": u32(4) };
    expect(await json({ ...LLAMA, ...ends })).toMatchObject({ eos_token_id: [1, 4] });
    const lists: Record<string, WrittenValue> = {
      "llama.attention.head_count_kv": { type: "i32s", value: [2, 2] },
    };
    expect(await json({ ...LLAMA, ...lists })).toMatchObject({ num_key_value_heads: 2 });
  });

  it("rotations: linear, yarn, factors, a part of the head", async () => {
    const scaling = (more: Record<string, WrittenValue>): Promise<Record<string, unknown>> =>
      json({ ...LLAMA, ...more });
    const at = "llama.rope.scaling";
    expect(await scaling({ [`${at}.type`]: string("linear"), [`${at}.factor`]: f32(4) })).toMatchObject({
      rope_scaling: { rope_type: "linear", factor: 4 },
    });
    const yarn = {
      [`${at}.type`]: string("yarn"),
      [`${at}.factor`]: f32(8),
      [`${at}.original_context_length`]: u32(16),
    };
    expect(await scaling(yarn)).toMatchObject({
      rope_scaling: { rope_type: "yarn", factor: 8, original_max_position_embeddings: 16 },
    });
    expect(await scaling({ "llama.rope.dimension_count": u32(2) })).toMatchObject({
      partial_rotary_factor: 0.5,
    });
    const freqs = { name: "rope_freqs.weight", type: "F32", shape: [2], data: f32Bytes(1, 8) };
    expect(await json(LLAMA, [embedding, freqs])).toMatchObject({
      rope_scaling: { rope_type: "longrope", short_factor: [1, 8], long_factor: [1, 8], attention_factor: 1 },
    });
    const wrong = { ...freqs, shape: [3], data: f32Bytes(1, 2, 3) };
    await expect(json(LLAMA, [embedding, wrong])).rejects.toThrow(/rope_freqs\.weight has 3 factors/);
  });

  it("what is missing, unknown or contradictory is named", async () => {
    await expect(json({})).rejects.toThrow(/general\.architecture is missing; known: llama, qwen2/);
    await expect(json({ "general.architecture": string("bert") })).rejects.toThrow(/is "bert"; known: llama/);
    const less = Object.fromEntries(Object.entries(LLAMA).filter(([key]) => key !== "llama.block_count"));
    await expect(json(less)).rejects.toThrow(/llama\.block_count is missing/);
    await expect(json(LLAMA, [])).rejects.toThrow(/has no tensor "token_embd\.weight"/);
    await expect(json({ ...LLAMA, "split.count": u32(3) })).rejects.toThrow(/one of several parts/);
    await expect(json({ ...LLAMA, "llama.attention.head_count": string("2") })).rejects.toThrow(ConfigError);
  });

  it("fuzz: values of any kind are taken or refused by a typed error", async () => {
    const value: fc.Arbitrary<WrittenValue> = fc.oneof(
      fc.constantFrom(0, 1, 3, 7, 2 ** 31, 2 ** 32 - 1).map(u32),
      fc.constantFrom(0, -1, 0.5, NaN, Infinity, 1e30).map(f32),
      fc.constantFrom("", "llama", "yarn", "linear").map(string),
      fc.boolean().map((b): WrittenValue => ({ type: "bool", value: b })),
      fc.constant<WrittenValue>({ type: "i32s", value: [1, 2] }),
      fc.constant<WrittenValue>({ type: "strings", value: [] }),
    );
    const keys = [
      ...Object.keys(LLAMA),
      "llama.rope.scaling.type",
      "llama.rope.scaling.factor",
      "llama.expert_count",
    ];
    keys.push("llama.rope.dimension_count", "llama.attention.key_length", "tokenizer.ggml.eos_token_id");
    await fc.assert(
      fc.asyncProperty(
        fc.dictionary(fc.constantFrom(...keys), value, { minKeys: 1, maxKeys: 3 }),
        async (changes) => {
          await readConfig(await fileOf({ ...LLAMA, ...changes })).catch((error: unknown) => {
            if (!KernelsError.isInstance(error)) throw error;
          });
        },
      ),
      { numRuns: Number(process.env["FUZZ_RUNS"] ?? 200), seed: Number(process.env["FUZZ_SEED"] ?? 1) | 0 },
    );
  });
});
