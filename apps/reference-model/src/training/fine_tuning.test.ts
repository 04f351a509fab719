import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { loadCheckpoint, loadFolderTokenizer } from "../checkpoint/load.js";
import { saveCheckpoint } from "../checkpoint/save.js";
import { modelConfig } from "../families/index.js";
import { generate } from "../model/generate.js";
import { CausalLM } from "../model/model.js";
import { TRAINING_DEFAULTS } from "./options.js";
import { learnTokenizer } from "./text.js";
import { train } from "./train.js";

const TEXT = "the cat sat on the mat\n\nthe dog sat on the log\n\nso it was\n";
const ROWS = 300;
const options = { ...TRAINING_DEFAULTS, steps: 2, batch: 1, seqLen: 8, warmup: 0, validation: 0 };

/** A Qwen model: more rows than ids, several ids that end a text, and a first id of its own. */
const json = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  vocab_size: ROWS,
  hidden_size: 16,
  intermediate_size: 16,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-6,
  rope_theta: 10000,
  tie_word_embeddings: true,
  torch_dtype: "float32",
  bos_token_id: 257,
  eos_token_id: [256, 257],
};

describe("fine-tuning a model whose embedding has more rows than the tokenizer has ids", () => {
  const device = useGpu();
  let folder = "";
  const { files: learned } = learnTokenizer(TEXT.split("\n\n"), 262);
  const tokenizerJson = learned["tokenizer.json"] as string;
  const { model: bpe, added_tokens: added } = JSON.parse(tokenizerJson) as {
    model: { vocab: Record<string, number>; merges: (string | [string, string])[] };
    added_tokens: { content: string; id: number }[];
  };
  const merges = bpe.merges.map((pair) => (typeof pair === "string" ? pair : pair.join(" ")));
  const beside = {
    "generation_config.json": JSON.stringify({ eos_token_id: [256, 257], temperature: 0.7 }),
    "special_tokens_map.json": JSON.stringify({ eos_token: "<|endoftext|>" }),
    "chat_template.jinja": "{{ messages }}",
    "tokenizer_config.json": learned["tokenizer_config.json"] as string,
  };
  const vocab = Object.fromEntries([
    ...Object.entries(bpe.vocab),
    ...added.map(({ content, id }) => [content, id] as const),
  ]);
  const TOKENIZERS = {
    "tokenizer.json": { "tokenizer.json": tokenizerJson },
    "vocab.json and merges.txt": {
      "vocab.json": JSON.stringify(vocab),
      "merges.txt": `#version: 0.2\n${merges.join("\n")}\n`,
    },
  };

  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "x-fine-"));
    writeFileSync(join(folder, "text.txt"), TEXT);
  });
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });

  for (const [name, tokenizer] of Object.entries(TOKENIZERS))
    it(`${name}: rows, special ids and every file stay, and the folder loads, continues and goes on`, async () => {
      const { gpu } = device;
      const files: Record<string, string> = { ...beside, ...tokenizer };
      const [init, out] = [join(folder, `init ${name}`), join(folder, `out ${name}`)];
      const first = CausalLM.init(gpu, modelConfig(json), { seed: 3 });
      await saveCheckpoint(init, first, json, { files });
      first.dispose();
      expect((await loadFolderTokenizer(init))!.vocabSize).toBeLessThan(ROWS);
      const run = { data: join(folder, "text.txt"), out, init, model: {}, vocabSize: 1024, options };
      await train(gpu, run);
      expect(JSON.parse(readFileSync(join(out, "config.json"), "utf8"))).toEqual(json);
      for (const [file, content] of Object.entries(files))
        expect(readFileSync(join(out, file), "utf8"), file).toBe(content);
      const { model, config } = await loadCheckpoint(gpu, out);
      expect([config.vocabSize, config.bosTokenId, config.eosTokenIds]).toEqual([ROWS, 257, [256, 257]]);
      const again = (await loadFolderTokenizer(out))!;
      expect(again.decode(again.encode("the cat", { addSpecialTokens: false }))).toBe("the cat");
      const { ids } = await generate(model, again.encode("the"), { maxNewTokens: 3, temperature: 1 }, again);
      expect(ids.length).toBeGreaterThan(0);
      model.dispose();
      // A longer run goes on with the tokenizer of the model it began with.
      const longer = await train(gpu, { ...run, options: { ...options, steps: 3 } });
      expect(longer.step).toBe(3);
      for (const [file, content] of Object.entries(files))
        expect(readFileSync(join(out, file), "utf8"), file).toBe(content);
    });

  it("an id that the model has no row for is refused before the first step", async () => {
    const { gpu } = device;
    const small = { ...json, vocab_size: 200 };
    const init = join(folder, "small");
    const first = CausalLM.init(gpu, modelConfig({ ...small, bos_token_id: 1, eos_token_id: 2 }), {
      seed: 3,
    });
    await saveCheckpoint(
      init,
      first,
      { ...small, bos_token_id: 1, eos_token_id: 2 },
      {
        files: { ...beside, "tokenizer.json": tokenizerJson },
      },
    );
    first.dispose();
    const run = {
      data: join(folder, "text.txt"),
      out: join(folder, "no"),
      init,
      model: {},
      vocabSize: 0,
      options,
    };
    await expect(train(gpu, run)).rejects.toThrow(/the tokenizer gives the id \d+ .*the model has 200 ids/);
  });
});
