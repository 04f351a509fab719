import { ConfigError } from "@x/kernels";
import { describe, expect, it } from "vitest";
import { fromHuggingFace } from "./huggingface.js";

const base = {
  vocab_size: 64,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 4,
  num_attention_heads: 4,
};
const read = (json: Record<string, unknown>) => fromHuggingFace({ ...base, ...json });
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
    expect(mixers({ model_type: "qwen3" })[0]).toMatchObject({ headDim: 128, qkNorm: { type: "rms" } });
  });

  it("windows: by family, by layer number and by layer type", () => {
    expect(windows({ model_type: "llama", sliding_window: 7 })).toEqual(Array(4).fill(undefined));
    expect(windows({ model_type: "mistral", sliding_window: 7 })).toEqual([7, 7, 7, 7]);
    expect(windows({ model_type: "mistral" })).toEqual(Array(4).fill(4096));
    expect(windows({ model_type: "mistral", sliding_window: null })).toEqual(Array(4).fill(undefined));
    const qwen = { model_type: "qwen2", sliding_window: 7, max_window_layers: 1 };
    expect(windows(qwen)).toEqual(Array(4).fill(undefined));
    expect(windows({ ...qwen, use_sliding_window: true })).toEqual([undefined, 7, 7, 7]);
    const deep = { model_type: "qwen2", sliding_window: 7, use_sliding_window: true, num_hidden_layers: 30 };
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
    refuse({ model_type: "llama", hidden_size: 30 }, /hidden_size is 30; without head_dim/);
    refuse({ model_type: "llama", hidden_act: "snake" }, /hidden_act is "snake"/);
    refuse({ model_type: "mixtral", num_experts_per_tok: 9 }, /num_experts_per_tok is 9/);
    refuse({ model_type: "qwen3", layer_types: ["full_attention"] }, /layer_types must list 4/);
    refuse({ model_type: "llama", vocab_size: "64" }, /vocab_size is "64"/);
  });
});
