import { ConfigError } from "@x/kernels";
import { describe, expect, it } from "vitest";
import { modelConfig } from "./index.js";

const base = {
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 4,
};
const read = (json: Record<string, unknown>) => modelConfig({ ...base, ...json });
const mixers = (json: Record<string, unknown>) => read(json).layers.map((l) => l.mixer);
const windows = (json: Record<string, unknown>) => mixers(json).map((m) => m["window"]);

describe("config.json of public families", () => {
  it("null and absent mean the family's own default", () => {
    const llama = read({
      model_type: "llama",
      num_key_value_heads: null,
      head_dim: null,
      rope_scaling: null,
    });
    expect(llama.layers[0]!.mixer).toMatchObject({ numHeads: 4, numKvHeads: 4, headDim: 8, qkvBias: false });
    expect(llama.layers[0]!.position).toMatchObject({ headDim: 8, rotaryDim: 8, base: 10000 });
    expect(llama.layers[0]!.norm["eps"]).toBe(1e-6);
    expect(llama.tieEmbeddings).toBe(false);
    const mixtral = read({ model_type: "mixtral" });
    expect(mixtral.layers[0]!.position["base"]).toBe(1e6);
    expect(mixtral.layers[0]!.norm["eps"]).toBe(1e-5);
    expect(mixtral.layers[0]!.ffn).toMatchObject({ numExperts: 8, topK: 2, gluKind: "swiglu" });
    expect(windows({ model_type: "mixtral" })).toEqual(Array(4).fill(undefined));
    const qwen3 = read({ model_type: "qwen3" });
    expect(qwen3.layers[0]!.mixer).toMatchObject({ headDim: 128, qkNorm: { type: "rms" } });
  });

  // The values of the families' configuration classes in transformers.
  const sizes = {
    dim: 4096,
    layers: 32,
    numHeads: 32,
    headDim: 128,
    eps: 1e-6,
    base: 10_000,
    window: undefined,
  };
  it.each([
    ["llama", { vocab: 32_000, hidden: 11_008, length: 2048, kv: 32, bos: 1, eos: [2] }],
    ["mistral", { vocab: 32_000, hidden: 14_336, length: 131_072, kv: 8, bos: 1, eos: [2], window: 4096 }],
    [
      "mixtral",
      { vocab: 32_000, hidden: 14_336, length: 131_072, kv: 8, bos: 1, eos: [2], eps: 1e-5, base: 1e6 },
    ],
    ["qwen2", { vocab: 151_936, hidden: 22_016, length: 32_768, kv: 32, bos: undefined, eos: [] }],
    ["qwen3", { vocab: 151_936, hidden: 22_016, length: 32_768, kv: 32, bos: undefined, eos: [] }],
  ] as const)("%s: a file that names only the family is its configuration class", (model_type, own) => {
    const config = modelConfig({ model_type });
    const { mixer, ffn, norm, position } = config.layers[31]!;
    const expected = { ...sizes, ...own };
    expect({
      vocab: config.vocabSize,
      dim: config.dim,
      layers: config.layers.length,
      length: config.maxLength,
      bos: config.bosTokenId,
      eos: config.eosTokenIds,
      numHeads: mixer["numHeads"],
      kv: mixer["numKvHeads"],
      headDim: mixer["headDim"],
      window: mixer["window"],
      hidden: ffn["hiddenDim"],
      eps: norm["eps"],
      base: position["base"],
    }).toEqual(expected);
    expect(config.tieEmbeddings).toBe(false);
    expect(config.balanceLoss).toBe(model_type === "mixtral" ? 0.001 : 0);
    expect(mixer).toMatchObject({ qkvBias: model_type === "qwen2", outBias: false });
    expect(ffn).toMatchObject(
      model_type === "mixtral"
        ? { type: "mixtral", gluKind: "swiglu", numExperts: 8, topK: 2 }
        : { type: "glu", kind: "swiglu", bias: false },
    );
  });

  it("a key of null has the family's default where the class knows no null, and follows from others where it does", () => {
    const nulls = read({
      model_type: "mistral",
      num_key_value_heads: null,
      sliding_window: null,
      head_dim: null,
      eos_token_id: null,
      max_position_embeddings: null,
      rms_norm_eps: null,
      hidden_act: null,
      rope_theta: null,
    });
    expect(nulls.layers[0]!.mixer).toMatchObject({ numHeads: 4, numKvHeads: 4, headDim: 8 });
    expect(nulls.layers[0]!.mixer["window"]).toBeUndefined();
    expect(nulls).toMatchObject({ maxLength: 131_072, eosTokenIds: [] });
    expect(nulls.layers[0]!.position["base"]).toBe(10_000);
  });

  it("other names of a key are taken, and the usual one wins", () => {
    const mixtral = { model_type: "mixtral" };
    const experts = (json: Record<string, unknown>) =>
      read({ ...mixtral, ...json }).layers[0]!.ffn["numExperts"];
    expect(experts({ num_experts: 4 })).toBe(4);
    expect(experts({ num_experts: 4, num_local_experts: 6 })).toBe(6);
    const act = read({ model_type: "llama", hidden_activation: "gelu" });
    expect(act.layers[0]!.ffn["kind"]).toBe("geglu");
  });

  it("windows: by family, by layer number and by layer type", () => {
    expect(windows({ model_type: "llama", sliding_window: 7 })).toEqual(Array(4).fill(undefined));
    expect(windows({ model_type: "mistral", sliding_window: 7 })).toEqual([7, 7, 7, 7]);
    expect(windows({ model_type: "mistral" })).toEqual(Array(4).fill(4096));
    expect(windows({ model_type: "mistral", sliding_window: null })).toEqual(Array(4).fill(undefined));
    const qwen = { model_type: "qwen2", sliding_window: 7, max_window_layers: 1 };
    expect(windows(qwen)).toEqual(Array(4).fill(undefined));
    expect(windows({ ...qwen, use_sliding_window: true })).toEqual([undefined, 7, 7, 7]);
    const deep = { ...qwen, use_sliding_window: true, num_hidden_layers: 30, max_window_layers: undefined };
    expect(windows(deep).indexOf(7)).toBe(28);
    const layer_types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"];
    expect(windows({ model_type: "qwen3", sliding_window: 5, layer_types })).toEqual([
      undefined,
      5,
      undefined,
      5,
    ]);
  });

  it("biases, activations and ids", () => {
    expect(mixers({ model_type: "llama", attention_bias: true })[0]).toMatchObject({
      qkvBias: true,
      outBias: true,
    });
    expect(mixers({ model_type: "qwen2" })[0]).toMatchObject({ qkvBias: true, outBias: false });
    expect(read({ model_type: "llama", mlp_bias: true, hidden_act: "gelu" }).layers[0]!.ffn).toMatchObject({
      kind: "geglu",
      bias: true,
    });
    expect(read({ model_type: "mixtral", hidden_act: "gelu_pytorch_tanh" }).layers[0]!.ffn).toMatchObject({
      gluKind: "gegluTanh",
    });
    expect(read({ model_type: "llama", eos_token_id: [3, 5] }).eosTokenIds).toEqual([3, 5]);
  });

  it("refuses what cannot be, by key, value and rule", () => {
    const refuse = (json: Record<string, unknown>, message: RegExp): void => {
      expect(() => read(json)).toThrow(ConfigError);
      expect(() => read(json)).toThrow(message);
    };
    refuse({ model_type: "gpt9" }, /model_type is "gpt9"/);
    refuse({ model_type: "llama", num_key_value_heads: 3 }, /num_key_value_heads is 3; it must divide/);
    refuse(
      { model_type: "mistral", num_key_value_heads: undefined },
      /num_key_value_heads is 8, the default of mistral; it must divide/,
    );
    refuse({ model_type: "llama", hidden_size: 30 }, /hidden_size is 30; without head_dim/);
    refuse({ model_type: "llama", hidden_act: "snake" }, /hidden_act is "snake"/);
    refuse({ model_type: "mixtral", num_experts_per_tok: 9 }, /num_experts_per_tok is 9/);
    refuse({ model_type: "qwen3", layer_types: ["full_attention"] }, /layer_types must list 4/);
    refuse({ model_type: "llama", vocab_size: "64" }, /vocab_size is "64"/);
  });
});
