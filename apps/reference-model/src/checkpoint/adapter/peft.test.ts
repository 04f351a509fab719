import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { KernelsError } from "@x/kernels";
import { writeSafetensors, type TensorData } from "@x/kernels/safetensors";
import { readAdapter } from "./peft.js";
import { peftConfig } from "./peft_config.js";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "x-peft-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const read = (more: Record<string, unknown>): ReturnType<typeof peftConfig> =>
  peftConfig("f", { peft_type: "LORA", ...more });

describe("adapter_config.json", () => {
  it("scales, ranks and targets as PEFT computes them", () => {
    const plain = read({ r: 4, lora_alpha: 8, target_modules: ["q_proj", "mlp.up_proj"] });
    expect(plain.scaleOf("x.q_proj")).toBe(2);
    expect(plain.targets("model.layers.0.self_attn.q_proj")).toBe(true);
    expect(plain.targets("model.layers.0.self_attn.my_q_proj")).toBe(false);
    expect(plain.targets("model.layers.0.mlp.up_proj")).toBe(true);
    const root = read({
      r: 4,
      lora_alpha: 8,
      use_rslora: true,
      rank_pattern: { "layers.1.*q_proj": 16 },
      alpha_pattern: { q_proj: 32 },
      target_modules: ".*\\.(?P<which>q|v)_proj",
      exclude_modules: ["layers.2.self_attn.v_proj"],
      layers_to_transform: [1, 2],
      layers_pattern: "layers",
    });
    expect(root.rankOf("model.layers.1.self_attn.q_proj")).toBe(16);
    expect(root.scaleOf("model.layers.1.self_attn.q_proj")).toBe(8);
    expect(root.scaleOf("model.layers.1.self_attn.v_proj")).toBe(4);
    expect(root.targets("model.layers.1.self_attn.v_proj")).toBe(true);
    expect(root.targets("model.layers.2.self_attn.v_proj")).toBe(false);
    expect(root.targets("model.layers.3.self_attn.v_proj")).toBe(false);
    expect(read({ target_modules: "all-linear" }).targets("anything")).toBeUndefined();
  });

  it("refuses by name what is computed otherwise", () => {
    for (const [key, value] of Object.entries({
      use_dora: true,
      layer_replication: [[0, 2]],
      lora_bias: true,
      target_parameters: ["experts.gate_up_proj"],
      trainable_token_indices: [1],
      init_lora_weights: "pissa",
      something_new: 3,
      bias: "some",
      r: 0,
      lora_alpha: "8",
      target_modules: "(",
      rank_pattern: { q_proj: -1 },
    }))
      expect(() => read({ [key]: value }), key).toThrow(new RegExp(key));
    expect(() => read({ peft_type: "IA3" })).toThrow(/peft_type is "IA3"; "LORA" is read/);
    // What PEFT writes for features that are off.
    expect(() =>
      read({ use_dora: false, layer_replication: null, loftq_config: {}, megatron_core: "megatron.core" }),
    ).not.toThrow();
  });

  it("any object is read or refused by an error of this program", () => {
    const keys = [
      "r",
      "lora_alpha",
      "target_modules",
      "rank_pattern",
      "bias",
      "modules_to_save",
      "use_rslora",
    ];
    const object = fc.dictionary(fc.constantFrom(...keys), fc.jsonValue({ maxDepth: 2 }));
    fc.assert(
      fc.property(object, (given) => {
        try {
          const config = read(given);
          expect(config.scaleOf("a.b")).toEqual(expect.any(Number));
          config.targets("a.0.b");
        } catch (error) {
          expect(KernelsError.isInstance(error), String(error)).toBe(true);
        }
      }),
      { numRuns: 300 },
    );
  });
});

describe("adapter_model.safetensors", () => {
  const put = (bytes: Uint8Array, config: Record<string, unknown> = {}): string => {
    const path = mkdtempSync(join(folder, "one-"));
    const json = { peft_type: "LORA", r: 2, lora_alpha: 2, target_modules: ["q"], ...config };
    writeFileSync(join(path, "adapter_config.json"), JSON.stringify(json));
    writeFileSync(join(path, "adapter_model.safetensors"), bytes);
    return path;
  };
  const zeros = (...shape: number[]): TensorData => ({
    shape,
    data: new Float32Array(shape.reduce((a, b) => a * b, 1)),
  });
  const pair = { "m.q.lora_A.weight": zeros(2, 3), "m.q.lora_B.weight": zeros(5, 2) };

  it("refuses halves of a pair, other ranks, modules and tensors that nothing speaks of", async () => {
    const refusals: [Record<string, TensorData>, RegExp][] = [
      [{ "m.q.lora_A.weight": zeros(2, 3) }, /has lora_A without lora_B/],
      [{ ...pair, "m.q.lora_B.weight": zeros(5, 3) }, /they must be \[2, in\] and \[out, 2\]/],
      [
        { "m.k.lora_A.weight": zeros(2, 3), "m.k.lora_B.weight": zeros(5, 2) },
        /does not have it among the modules/,
      ],
      [{ ...pair, "m.norm.weight": zeros(3) }, /modules_to_save and bias do not speak of it/],
      [{ ...pair, "m.q.bias": zeros(3) }, /do not speak of it/],
      [{}, /holds no tensors of an adapter/],
    ];
    for (const [tensors, message] of refusals)
      await expect(readAdapter(put(writeSafetensors(tensors)))).rejects.toThrow(message);
    const { factors, whole } = await readAdapter(
      put(writeSafetensors({ ...pair, "m.q.base_layer.bias": zeros(5), "m.norm.weight": zeros(3) }), {
        bias: "all",
        modules_to_save: ["norm"],
      }),
    );
    expect(factors.map(({ module }) => module)).toEqual(["m.q"]);
    expect([...whole.keys()].sort()).toEqual(["m.norm.weight", "m.q.bias"]);
  });

  it("damaged files are refused by an error of this program", async () => {
    const good = writeSafetensors(pair);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 6 }),
        fc.nat(good.length),
        async (changes, length) => {
          const bytes = good.slice(0, length);
          for (const [at, value] of changes) if (at < length) bytes[at] = value;
          await readAdapter(put(bytes)).catch((error: unknown) => {
            expect(KernelsError.isInstance(error), String(error)).toBe(true);
          });
        },
      ),
      { numRuns: 100 },
    );
  });

  it("says what a folder lacks", async () => {
    await expect(readAdapter(folder)).rejects.toThrow(/adapter_config\.json: cannot be read/);
    const path = put(writeSafetensors(pair));
    rmSync(join(path, "adapter_model.safetensors"));
    writeFileSync(join(path, "adapter_model.bin"), "");
    await expect(readAdapter(path)).rejects.toThrow(/a pickle; adapter_model\.safetensors is read/);
  });
});
