import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { KernelsError } from "@x/kernels";
import { repository, useGpu } from "@x/testing";
import { loadCheckpoint, readConfig } from "./checkpoint/load.js";
import { modelConfig } from "./families/index.js";

const models = join(repository, "tooling/fixtures/models");
const device = useGpu();
let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "x-fuzz-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** Runs and seed: fixed, unless `FUZZ_RUNS` and `FUZZ_SEED` say otherwise. */
const runs = (n: number): { numRuns: number; seed: number } => ({
  numRuns: Number(process.env["FUZZ_RUNS"] ?? n),
  seed: Number(process.env["FUZZ_SEED"] ?? 1) | 0,
});

/** A copy of a model's folder with some files changed. */
function copyOf(model: string, change: (path: string) => void): string {
  const path = mkdtempSync(join(folder, "model-"));
  cpSync(join(models, model), path, { recursive: true });
  change(path);
  return path;
}
const edit = (file: string, f: (json: Record<string, unknown>) => unknown): void => {
  writeFileSync(file, JSON.stringify(f(JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>)));
};

/** Why a folder is refused; loading it must fail with a typed error, and leave nothing on the device. */
async function refusal(path: string): Promise<string> {
  const before = device.gpu.memory().liveBuffers;
  const result = await loadCheckpoint(device.gpu, path).then(
    () => "it was loaded",
    (error: unknown) => {
      if (!KernelsError.isInstance(error)) throw error;
      return error.message;
    },
  );
  if (result !== "it was loaded") expect(device.gpu.memory().liveBuffers).toBe(before);
  return result;
}

describe("folders that are not what they say are refused by file, tensor and reason, and leave nothing behind", () => {
  const index = "model.safetensors.index.json";
  const cases: Record<string, [string, (path: string) => void, RegExp]> = {
    "a shard that is missing": [
      "llama-sharded",
      (p) => {
        rmSync(join(p, "model-00002-of-00003.safetensors"));
      },
      /model-00002-of-00003\.safetensors: cannot be opened/,
    ],
    "a shard outside the folder": [
      "llama-sharded",
      (p) => {
        edit(join(p, index), (j) => ({
          ...j,
          weight_map: { ...(j["weight_map"] as object), "lm_head.weight": "../../x.safetensors" },
        }));
      },
      /index\.json: tensor "lm_head\.weight" lies in "\.\.\/\.\.\/x\.safetensors"/,
    ],
    "an index that names a tensor no shard has": [
      "llama-sharded",
      (p) => {
        edit(join(p, index), (j) => ({
          ...j,
          weight_map: {
            ...(j["weight_map"] as object),
            "model.extra.weight": "model-00001-of-00003.safetensors",
          },
        }));
      },
      /model-00001-of-00003\.safetensors: has no tensor "model\.extra\.weight"/,
    ],
    "an index without a map": [
      "llama-sharded",
      (p) => {
        writeFileSync(join(p, index), "[]");
      },
      /index\.json: weight_map must map/,
    ],
    "an index without the last layer's tensors": [
      "llama-sharded",
      (p) => {
        edit(join(p, index), (j) => ({
          ...j,
          weight_map: Object.fromEntries(
            Object.entries(j["weight_map"] as object).filter(([name]) => name !== "model.norm.weight"),
          ),
        }));
      },
      /norm.*missing/,
    ],
    "a truncated file": [
      "llama",
      (p) => {
        const file = join(p, "model.safetensors");
        writeFileSync(file, readFileSync(file).subarray(0, -10));
      },
      /model\.safetensors: tensor ".*": data_offsets .*truncated/,
    ],
    "no weights at all": [
      "llama",
      (p) => {
        rmSync(join(p, "model.safetensors"));
      },
      /model\.safetensors: cannot be opened/,
    ],
    "a configuration of more layers than there are": [
      "llama",
      (p) => {
        edit(join(p, "config.json"), (j) => ({
          ...j,
          num_hidden_layers: Number(j["num_hidden_layers"]) + 1,
        }));
      },
      /missing/,
    ],
    "a configuration of fewer layers than there are": [
      "llama",
      (p) => {
        edit(join(p, "config.json"), (j) => ({
          ...j,
          num_hidden_layers: Number(j["num_hidden_layers"]) - 1,
        }));
      },
      /no place for/,
    ],
    "a configuration of another width": [
      "llama",
      (p) => {
        edit(join(p, "config.json"), (j) => ({
          ...j,
          intermediate_size: Number(j["intermediate_size"]) + 1,
        }));
      },
      /shape/,
    ],
    "a configuration that is no JSON": [
      "llama",
      (p) => {
        writeFileSync(join(p, "config.json"), "{");
      },
      /config\.json: is no JSON/,
    ],
  };
  for (const [what, [model, change, reason]] of Object.entries(cases))
    it(what, async () => {
      expect(await refusal(copyOf(model, change))).toMatch(reason);
    });
});

describe("fuzz: config.json", () => {
  const right = JSON.parse(readFileSync(join(models, "llama3-rope/config.json"), "utf8")) as Record<
    string,
    unknown
  >;
  const odd = fc.oneof(
    fc.jsonValue({ maxDepth: 3 }),
    fc.constantFrom(
      null,
      -1,
      0,
      0.5,
      1e9,
      1e308,
      NaN,
      "1",
      "",
      [],
      {},
      true,
      2 ** 31,
      Number.MAX_SAFE_INTEGER,
    ),
  );
  const read = (json: unknown): void => {
    const started = performance.now();
    try {
      modelConfig(json, "config.json");
    } catch (error) {
      if (!KernelsError.isInstance(error)) throw error;
    }
    expect(performance.now() - started).toBeLessThan(5000);
  };

  it("any JSON object is taken or refused, quickly", () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), odd), (json) => {
        read(json);
      }),
      runs(300),
    );
  });

  it("a right configuration with fields changed is taken or refused, quickly", () => {
    const fields = fc.dictionary(
      fc.constantFrom(...Object.keys(right), "rope_scaling", "layer_types", "sliding_window", "head_dim"),
      odd,
      {
        minKeys: 1,
        maxKeys: 3,
      },
    );
    fc.assert(
      fc.property(fields, (changes) => {
        read({ ...right, ...changes });
      }),
      runs(500),
    );
  });

  it("a folder whose configuration lies is refused whole", async () => {
    const path = copyOf("llama", () => undefined);
    const { json } = await readConfig(path);
    const keys = Object.keys(json).filter((key) => typeof json[key] === "number");
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...keys),
        fc.constantFrom(-1, 0, 0.5, 3, 7, 1e6, 2 ** 31, null, "8"),
        async (key, value) => {
          writeFileSync(join(path, "config.json"), JSON.stringify({ ...json, [key]: value }));
          const before = device.gpu.memory().liveBuffers;
          try {
            const { model } = await loadCheckpoint(device.gpu, path);
            for (const tensor of Object.values(model.state())) tensor.dispose();
          } catch (error) {
            if (!KernelsError.isInstance(error)) throw error;
            expect(device.gpu.memory().liveBuffers).toBe(before);
          }
        },
      ),
      runs(40),
    );
  }, 120_000);
});
