import { mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ConfigError } from "@x/kernels";
import { repository, sharedFolder, useGpu } from "@x/testing";
import { checkExpected } from "../../test-support.js";
import { loadFolderTokenizer } from "../load.js";
import { modelSource } from "../source.js";
import type { ModelSource, StoredTensor } from "../stored.js";
import { GgufFile } from "./gguf_file.js";
import { writeGguf, type GgufType } from "./to_gguf.js";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "x-to-gguf-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const fixture = (name: string): string => join(repository, "tooling/fixtures/models", name);

async function written(path: string, type: GgufType): Promise<string> {
  const file = join(mkdtempSync(join(folder, "model-")), "model.gguf");
  await writeGguf(file, await modelSource(path), type);
  return file;
}

/** Tensors of a source by the ends of their names, without wrappers and what is no weight. */
async function weights(
  source: ModelSource,
): Promise<Map<string, { shape: readonly number[]; data: Float32Array }>> {
  const opened = await source.open();
  const out = new Map<string, { shape: readonly number[]; data: Float32Array }>();
  const wanted = ([name]: [string, StoredTensor]): boolean => !/\.attn\.(masked_)?bias$/.test(name);
  for (const [name, tensor] of [...opened.tensors].filter(wanted))
    out.set(name.replace(/^(model|transformer|backbone)\./, ""), {
      shape: tensor.shape,
      data: await tensor.floats(),
    });
  await opened.close();
  return out;
}

/** Keys of config.json that say what is computed, as far as both files have them. */
const COMPUTED_KEYS =
  /dtype|architectures|transformers_version|initializer|dropout|pdrop|cache|pad_token|time_step_(min|max|floor|init|scale)|rescale|residual|pretraining|aux_loss|output_router|bos_|eos_|rope_scaling|max_window|sliding_window$/;

describe("GGUF files of folders: reading back gives the folder", () => {
  const families = [
    "llama",
    "llama-f16",
    "mistral",
    "mixtral",
    "qwen2",
    "qwen3_moe",
    "gemma2",
    "gemma3_text",
  ];
  for (const name of [...families, "phi3", "gpt2", "mamba", "llama3-rope"])
    it(`${name}: tensors and configuration`, async ({ skip }) => {
      const path = sharedFolder(`models/${name}`);
      if (path === undefined) skip(`shared/models/${name} is not beside the repository`);
      const source = await modelSource(path!);
      const again = await modelSource(await written(path!, "f32"));
      const [before, after] = [await weights(source), await weights(again)];
      expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
      for (const [key, { shape, data }] of before) {
        expect(after.get(key)!.shape, key).toEqual(shape);
        const worst = data.reduce((most, x, i) => Math.max(most, Math.abs(x - after.get(key)!.data[i]!)), 0);
        // Norms of Gemma are written with 1 added, and Mamba's decay as its exponential.
        expect(worst, key).toBeLessThanOrEqual(/norm|A_log/.test(key) ? 3e-7 : 0);
      }
      const [given, said] = [await source.config(), await again.config()];
      for (const [key, value] of Object.entries(said))
        if (key in given && given[key] !== null && !COMPUTED_KEYS.test(key))
          expect(value, key).toEqual(given[key]);
      expect(said["model_type"]).toBe(given["model_type"]);
    });

  it("types: vectors and routers stay F32, rows that are no whole number of blocks are halves", async () => {
    const file = await GgufFile.parse("q8", await readFile(await written(fixture("mixtral"), "q8")));
    const type = (name: string): string => file.tensor(name).type.name;
    expect(type("blk.0.attn_norm.weight")).toBe("F32");
    expect(type("blk.0.ffn_gate_inp.weight")).toBe("F32");
    expect(file.tensor("blk.0.ffn_down_exps.weight").shape).toEqual([4, 48, 64]);
    expect(type("blk.0.ffn_down_exps.weight")).toBe("Q8_0");
    // Rows of 48.
    expect(type("blk.0.attn_q.weight")).toBe("F16");
    expect(file.metadata.get("general.file_type")).toBe(7);
  });

  it("8 bits: each number within half a step of its block", async () => {
    const [source, again] = [
      await modelSource(fixture("mistral")),
      await modelSource(await written(fixture("mistral"), "q8")),
    ];
    const [before, after] = [await weights(source), await weights(again)];
    for (const [key, { data }] of before)
      for (let at = 0; at < data.length; at += 32) {
        const block = Array.from(data.subarray(at, at + 32));
        const most = Math.max(...block.map(Math.abs));
        const worst = Math.max(...block.map((x, i) => Math.abs(x - after.get(key)!.data[at + i]!)));
        // Half a step, and the rounding of the step to a half.
        expect(worst, key).toBeLessThanOrEqual((most / 127) * 0.5 + most * 2 ** -11 + 1e-9);
      }
  });

  it("what cannot be said is refused, and what llama.cpp computes otherwise is told", async () => {
    const changed = async (name: string, change: Record<string, unknown>): Promise<string[]> => {
      const source = await modelSource(fixture(name));
      const config = async (): Promise<Record<string, unknown>> => ({
        ...(await source.config()),
        ...change,
      });
      return writeGguf(join(folder, "changed.gguf"), { ...source, config }, "f32");
    };
    await expect(changed("llama", { model_type: "bloom" })).rejects.toThrow(
      /model_type is "bloom"; GGUF files are written of llama/,
    );
    await expect(changed("llama", { hidden_act: "gelu" })).rejects.toThrow(
      /hidden_act is "gelu"; llama\.cpp's llama computes "silu"/,
    );
    await expect(changed("llama", { hidden_size: null })).rejects.toThrow(
      /hidden_size is missing; GGUF needs a number/,
    );
    await expect(changed("qwen2", { use_sliding_window: true })).rejects.toThrow(ConfigError);
    await expect(changed("llama", { rope_scaling: { rope_type: "dynamic", factor: 2 } })).rejects.toThrow(
      /"dynamicNtk" has no form/,
    );
    expect(await changed("mistral", {})).toEqual([
      "llama.cpp does not read the window of this architecture: texts of more than 12 tokens differ there",
    ]);
    expect(await changed("llama", {})).toEqual([]);
  });
});

describe("tokenizers in GGUF files", () => {
  for (const name of ["stories260K", "aidreams", undefined])
    it(`${name ?? "the bundled model"}: equal ids and texts`, async ({ skip }) => {
      const path =
        name === undefined
          ? join(repository, "apps/reference-model/checkpoint")
          : sharedFolder(`models/${name}`);
      if (path === undefined) skip(`shared/models/${name!} is not beside the repository`);
      const file = await written(path!, "f16");
      const [tokenizer, again] = [(await loadFolderTokenizer(path!))!, (await loadFolderTokenizer(file))!];
      for (const text of [
        "",
        "Once upon a time, there was  a girl.",
        " é 🦙\n\n12 345",
        "don't <s> stop</s>",
      ]) {
        expect(again.encode(text), text).toEqual(tokenizer.encode(text));
        const ids = tokenizer.encode(text);
        expect(again.decode(ids, { skipSpecialTokens: true })).toBe(
          tokenizer.decode(ids, { skipSpecialTokens: true }),
        );
      }
    });
});

it("a model without a tokenizer has none in its GGUF file", async () => {
  expect(await loadFolderTokenizer(await written(fixture("llama"), "f16"))).toBeUndefined();
});

describe("models in files that were written here", () => {
  const device = useGpu();

  for (const name of ["llama3-rope", "mixtral", "gpt2", "phi3", "gemma2", "gemma3_text"])
    it(`${name}: the logits, losses and ids that its folder has`, async () => {
      await checkExpected(device.gpu, fixture(name), await written(fixture(name), "f32"));
    });
});
