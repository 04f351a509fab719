import { describe, expect, it } from "vitest";
import { ConfigError } from "@x/kernels";
import { ropeFromHuggingFace, ropeLayerTypes } from "./huggingface.js";

const base = { hidden_size: 64, num_attention_heads: 4, max_position_embeddings: 8192 };
const scaled = (rope_scaling: unknown, more: object = {}) =>
  ropeFromHuggingFace({ ...base, ...more, rope_scaling }).scaling;

describe("rope from Hugging Face configurations", () => {
  it("reads base, head width and the part that turns", () => {
    expect(ropeFromHuggingFace(base)).toEqual({
      headDim: 16,
      rotaryDim: 16,
      base: 10000,
      layout: "half",
      scaling: { type: "none" },
    });
    expect(ropeFromHuggingFace({ ...base, head_dim: 32, rope_theta: 5e5 })).toMatchObject({
      headDim: 32,
      base: 5e5,
    });
    expect(ropeFromHuggingFace({ ...base, rotary_pct: 0.25, rotary_emb_base: 777 })).toMatchObject({
      rotaryDim: 4,
      base: 777,
    });
    expect(ropeFromHuggingFace({ ...base, partial_rotary_factor: 0.5 })).toMatchObject({ rotaryDim: 8 });
    expect(ropeFromHuggingFace({ n_embd: 64, n_head: 4, rotary_dim: 8, model_type: "gptj" })).toMatchObject({
      headDim: 16,
      rotaryDim: 8,
      layout: "interleaved",
    });
    expect(
      ropeFromHuggingFace({ ...base, head_dim: null, rope_theta: null, rope_scaling: null }),
    ).toMatchObject({
      headDim: 16,
      base: 10000,
    });
  });

  it("reads the newer dictionary: theta and the partial factor are inside", () => {
    const config = {
      ...base,
      rope_theta: 1,
      rope_parameters: { rope_type: "default", rope_theta: 1e6, partial_rotary_factor: 0.5 },
    };
    expect(ropeFromHuggingFace(config)).toMatchObject({ base: 1e6, rotaryDim: 8, scaling: { type: "none" } });
  });

  it("reads every type", () => {
    expect(scaled({ type: "linear", factor: 4 })).toEqual({ type: "linear", factor: 4 });
    expect(scaled({ rope_type: "linear", factor: 4 })).toEqual({ type: "linear", factor: 4 });
    expect(scaled({ type: "mrope", mrope_section: [1, 2] })).toEqual({ type: "none" });
    expect(scaled({ rope_type: null, type: null })).toEqual({ type: "none" });
    expect(scaled({ type: "dynamic", factor: 2 })).toEqual({
      type: "dynamicNtk",
      factor: 2,
      originalMaxPositionEmbeddings: 8192,
    });
    expect(scaled({ type: "ntk", alpha: 8 })).toEqual({ type: "ntk", factor: 8 });
    expect(
      scaled({
        rope_type: "llama3",
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 2048,
      }),
    ).toEqual({
      type: "llama3",
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositionEmbeddings: 2048,
    });
  });

  it("reads yarn: lengths, null and zero values, every key", () => {
    expect(scaled({ type: "yarn", factor: 4, beta_fast: 0, beta_slow: null, mscale: null })).toEqual({
      type: "yarn",
      factor: 4,
      originalMaxPositionEmbeddings: 8192,
    });
    expect(scaled({ type: "yarn", factor: 4, original_max_position_embeddings: 0 })).toMatchObject({
      originalMaxPositionEmbeddings: 8192,
    });
    expect(scaled({ type: "yarn", original_max_position_embeddings: 2048 })).toEqual({
      type: "yarn",
      factor: 4,
      originalMaxPositionEmbeddings: 2048,
    });
    expect(
      scaled({
        rope_type: "yarn",
        factor: 40,
        original_max_position_embeddings: 4096,
        beta_fast: 16,
        beta_slow: 2,
        attention_factor: 1.1,
        mscale: 0.7,
        mscale_all_dim: 1,
        truncate: false,
      }),
    ).toEqual({
      type: "yarn",
      factor: 40,
      originalMaxPositionEmbeddings: 4096,
      betaFast: 16,
      betaSlow: 2,
      attentionFactor: 1.1,
      mscale: 0.7,
      mscaleAllDim: 1,
      truncate: false,
    });
  });

  it("reads longrope: the trained length at top level, the ratio, one temperature for each list", () => {
    const lists = { short_factor: [1, 1], long_factor: [2, 4] };
    const read = {
      type: "longrope",
      shortFactor: [1, 1],
      longFactor: [2, 4],
      originalMaxPositionEmbeddings: 2048,
    };
    for (const type of ["longrope", "su"])
      expect(scaled({ type, ...lists }, { original_max_position_embeddings: 2048 })).toEqual({
        ...read,
        factor: 4,
      });
    expect(scaled({ type: "su", ...lists, factor: 16 }, { original_max_position_embeddings: 2048 })).toEqual({
      ...read,
      factor: 16,
    });
    expect(
      scaled(
        { type: "longrope", ...lists, short_mscale: 1.1, long_mscale: 1.2 },
        { original_max_position_embeddings: 2048 },
      ),
    ).toEqual({ ...read, attentionFactor: { short: 1.1, long: 1.2 } });
    expect(() => scaled({ type: "longrope", ...lists, short_mscale: 1.1 })).toThrow(/needs both/);
  });

  it("reads a dictionary per layer type, and Gemma 3's local base", () => {
    const config = {
      ...base,
      rope_parameters: {
        full_attention: { rope_type: "linear", factor: 8, rope_theta: 1e6 },
        sliding_attention: { rope_type: "default", rope_theta: 1e4 },
      },
    };
    expect(ropeLayerTypes(config)).toEqual(["full_attention", "sliding_attention"]);
    expect(ropeFromHuggingFace(config, "full_attention")).toMatchObject({
      base: 1e6,
      scaling: { type: "linear", factor: 8 },
    });
    expect(ropeFromHuggingFace(config, "sliding_attention")).toMatchObject({
      base: 1e4,
      scaling: { type: "none" },
    });
    expect(() => ropeFromHuggingFace(config)).toThrow(
      /one entry per layer type \(full_attention, sliding_attention\)/,
    );
    expect(() => ropeFromHuggingFace(config, "global")).toThrow(/layerType is "global"/);
    const gemma = {
      ...base,
      rope_theta: 1e6,
      rope_local_base_freq: 1e4,
      rope_scaling: { type: "linear", factor: 8 },
    };
    expect(ropeFromHuggingFace(gemma, "full_attention")).toMatchObject({
      base: 1e6,
      scaling: { type: "linear", factor: 8 },
    });
    expect(ropeFromHuggingFace(gemma, "sliding_attention")).toMatchObject({
      base: 1e4,
      scaling: { type: "none" },
    });
    expect(ropeLayerTypes(base)).toEqual([]);
    // The bases at top level hold where an entry has none.
    const mixed = {
      ...base,
      rope_theta: 1e6,
      rope_local_base_freq: 1e4,
      rope_parameters: { full_attention: { rope_type: "linear", factor: 8 }, sliding_attention: null },
    };
    expect(ropeFromHuggingFace(mixed, "full_attention").base).toBe(1e6);
    expect(ropeFromHuggingFace(mixed, "sliding_attention")).toMatchObject({
      base: 1e4,
      scaling: { type: "none" },
    });
    expect(() =>
      ropeLayerTypes({ ...base, rope_parameters: { rope_type: "yarn", full_attention: {} } }),
    ).toThrow(/rope_type is "yarn" beside entries per layer type/);
    expect(() => ropeLayerTypes({ ...base, rope_parameters: { full_attention: {}, other: 3 } })).toThrow(
      /other is 3 beside/,
    );
  });

  it("reads ModernBERT's bases of full and sliding layers", () => {
    const older = { ...base, global_rope_theta: 160_000, local_rope_theta: 10_000 };
    const newer = {
      ...base,
      rope_parameters: {
        full_attention: { rope_type: "default", rope_theta: 160_000 },
        sliding_attention: { rope_type: "default", rope_theta: 10_000 },
      },
    };
    for (const config of [older, newer]) {
      expect(ropeLayerTypes(config)).toEqual(["full_attention", "sliding_attention"]);
      expect(ropeFromHuggingFace(config, "full_attention").base).toBe(160_000);
      expect(ropeFromHuggingFace(config, "sliding_attention").base).toBe(10_000);
    }
    const alike = { ...older, local_rope_theta: null };
    expect(ropeFromHuggingFace(alike, "sliding_attention").base).toBe(160_000);
  });

  it("refuses by name what it does not know", () => {
    expect(() => scaled({ type: "proportional" })).toThrow(/rope type "proportional" is not known/);
    expect(() => scaled({ type: "linear" })).toThrow(/rope type "linear" needs factor/);
    expect(() => scaled({ type: "linear", factor: "4" })).toThrow(/factor is "4"; it must be a number/);
    expect(() => scaled({ type: 3 })).toThrow(/rope_type is 3/);
    expect(() => scaled("linear")).toThrow(/rope_scaling is "linear"; it must be an object or null/);
    expect(() => scaled({ type: "yarn", factor: 2, truncate: "no" })).toThrow(/truncate is "no"/);
    expect(() => scaled({ type: "longrope", short_factor: [1] })).toThrow(
      /long_factor is undefined; it must list numbers/,
    );
    expect(() => ropeFromHuggingFace({ rope_scaling: { type: "dynamic", factor: 2 }, head_dim: 8 })).toThrow(
      /needs max_position_embeddings/,
    );
    expect(() => ropeFromHuggingFace({})).toThrow(ConfigError);
  });
});
