import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Safetensors, writeSafetensors, type TensorData } from "@x/kernels/safetensors";
import { useGpu } from "@x/testing";
import { loadModel, type EncoderDecoderCheckpoint } from "../../checkpoint/load.js";
import { saveCheckpoint } from "../../checkpoint/save.js";
import { EncoderDecoderLM } from "../../model/encoder_decoder.js";
import { encoderDecoderConfig } from "../index.js";

const CONFIG = {
  model_type: "t5",
  vocab_size: 11,
  d_model: 8,
  d_kv: 3,
  d_ff: 10,
  num_heads: 2,
  num_layers: 1,
  num_decoder_layers: 2,
};
type Json = Record<string, unknown>;

describe("T5's folders", () => {
  const device = useGpu();
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "x-t5-"));
  });
  afterAll(() => rm(folder, { recursive: true }));

  /** A folder of random weights, its config.json and its tensors changed. */
  async function written(
    made: Json,
    config: Json,
    change: (tensors: Record<string, TensorData>) => void = () => undefined,
  ): Promise<string> {
    const json = { ...CONFIG, ...made };
    const model = EncoderDecoderLM.init(device.gpu, encoderDecoderConfig(json), { seed: 2 });
    const at = await mkdtemp(join(folder, "model-"));
    await saveCheckpoint(at, model, { ...CONFIG, ...config });
    model.dispose();
    const path = join(at, "model.safetensors");
    const file = await Safetensors.parse(path, await readFile(path));
    const tensors: Record<string, TensorData> = {};
    for (const name of file.names)
      tensors[name] = {
        shape: [...file.entry(name).shape],
        data: Float32Array.from((await file.numbers(name)) as Float32Array),
      };
    change(tensors);
    await writeFile(path, writeSafetensors(tensors));
    return at;
  }

  /** The logits of a folder's model for some ids, and whether its embeddings are tied. */
  async function read(path: string): Promise<{ logits: number[]; tied: boolean; start: number }> {
    const { gpu } = device;
    const { model, config } = (await loadModel(gpu, path)) as EncoderDecoderCheckpoint;
    const row = (ids: number[]) => gpu.tensor(ids, [1, ids.length], "i32");
    const made = gpu.scope(() => model.forward(row([4, 2, 9]), row([0, 5])));
    const logits = Array.from(await made.read());
    made.dispose();
    model.dispose();
    return { logits, tied: config.decoder.tieEmbeddings, start: config.decoderStartTokenId };
  }

  it("the embedding has any of three names, once or more; a table that nothing reads is left out", async () => {
    const want = await read(await written({}, {}));
    const names = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
    for (const name of names) {
      const renamed = await written({}, {}, (tensors) => {
        tensors[name] = tensors["shared.weight"]!;
        delete tensors["shared.weight"];
      });
      expect((await read(renamed)).logits).toEqual(want.logits);
    }
    const again = await written({}, {}, (tensors) => {
      for (const name of [...names, "lm_head.weight"]) tensors[name] = tensors["shared.weight"]!;
      tensors["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = {
        shape: [32, 2],
        data: new Float32Array(64).fill(7),
      };
    });
    expect((await read(again)).logits).toEqual(want.logits);
  });

  it("with scale_decoder_outputs, a file with an output matrix has it, whatever tie_word_embeddings says", async () => {
    const want = await read(await written({ tie_word_embeddings: false }, { tie_word_embeddings: false }));
    const renewed = { tie_word_embeddings: true, scale_decoder_outputs: false };
    const untied = await read(await written({ tie_word_embeddings: false }, renewed));
    expect(untied).toEqual({ ...want, tied: false });
    const tied = await read(await written({}, renewed));
    expect(tied.tied).toBe(true);
    const scaled = await read(await written({}, {}));
    for (const [i, x] of tied.logits.entries())
      expect(x / Math.sqrt(CONFIG.d_model)).toBeCloseTo(scaled.logits[i]!, 5);
  });

  it("generation_config.json names the start id", async () => {
    const at = await written({}, { decoder_start_token_id: 2 });
    expect((await read(at)).start).toBe(2);
    await writeFile(join(at, "generation_config.json"), JSON.stringify({ decoder_start_token_id: 3 }));
    expect((await read(at)).start).toBe(3);
    await writeFile(join(at, "generation_config.json"), JSON.stringify({ decoder_start_token_id: 11 }));
    await expect(read(at)).rejects.toThrow(/generation_config\.json: decoder_start_token_id is 11/);
  });

  it("tensors that are missing, left over or of another shape are named as the file names them", async () => {
    const cases: [(tensors: Record<string, TensorData>) => void, RegExp][] = [
      [
        (tensors) => delete tensors["decoder.block.1.layer.1.EncDecAttention.k.weight"],
        /tensor decoder\.block\.1\.layer\.1\.EncDecAttention\.k\.weight is missing/,
      ],
      [
        (tensors) => delete tensors["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
        /tensor encoder\.block\.0\.layer\.0\.SelfAttention\.relative_attention_bias\.weight is missing/,
      ],
      [(tensors) => delete tensors["shared.weight"], /tensor shared\.weight is missing/],
      [
        (tensors) => (tensors["encoder.block.1.layer.0.layer_norm.weight"] = tensors["shared.weight"]!),
        /no place for: encoder\.block\.1\.layer\.0\.layer_norm\.weight/,
      ],
      [
        (tensors) => (tensors["encoder.final_layer_norm.weight"] = { shape: [2], data: new Float32Array(2) }),
        /encoder\.norm\.weight has shape \[2\]; the configuration says \[8\]/,
      ],
    ];
    for (const [change, message] of cases) {
      const before = device.gpu.memory().liveBytes;
      await expect(read(await written({}, {}, change))).rejects.toThrow(message);
      expect(device.gpu.memory().liveBytes).toBe(before);
    }
  });

  it("mT5 has T5's tensors with other defaults", () => {
    const { decoder, headIfStored } = encoderDecoderConfig({ model_type: "mt5" });
    expect([decoder.vocabSize, decoder.layers.length, decoder.tieEmbeddings]).toEqual([250_112, 8, false]);
    expect([decoder.layers[0]!.ffn["kind"], decoder.logitScale, headIfStored]).toEqual([
      "gegluTanh",
      1,
      false,
    ]);
  });
});
