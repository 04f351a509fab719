import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { repository, useGpu } from "@x/testing";
import { loadCheckpoint } from "./load.js";

interface Entry {
  readonly dtype: string;
  readonly shape: number[];
  readonly data_offsets: [number, number];
}
type Header = Record<string, Entry>;

const models = join(repository, "tooling/fixtures/models");
const headOf = (bytes: Buffer): { header: Header; data: Buffer } => {
  const length = Number(bytes.readBigUInt64LE(0));
  return {
    header: JSON.parse(bytes.subarray(8, 8 + length).toString()) as Header,
    data: bytes.subarray(8 + length),
  };
};

/** A safetensors file with its header changed, and tensors of other types behind. */
async function rewrite(path: string, change: (header: Header) => Header, more: Header = {}): Promise<void> {
  const { header, data } = headOf(await readFile(path));
  const added = Object.values(more).reduce((n, { data_offsets: [a, b] }) => n + b - a, 0);
  const moved = Object.entries(more).map(([name, entry]) => [
    name,
    { ...entry, data_offsets: entry.data_offsets.map((x) => x + data.length) },
  ]);
  const text = Buffer.from(JSON.stringify({ ...change(header), ...Object.fromEntries(moved) }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  await writeFile(path, Buffer.concat([length, text, data, Buffer.alloc(added)]));
}

const rename = (f: (name: string) => string) => (header: Header) =>
  Object.fromEntries(
    Object.entries(header).map(([name, entry]) => [name === "__metadata__" ? name : f(name), entry]),
  );

describe("weights as public checkpoints name them", () => {
  const device = useGpu();

  /** Logits of a fixture whose weights were changed. */
  async function logits(model: string, change?: (folder: string) => Promise<void>): Promise<number[]> {
    const folder = await mkdtemp(join(tmpdir(), "x-load-"));
    try {
      await cp(join(models, model), folder, { recursive: true });
      await change?.(folder);
      const { gpu } = device;
      const loaded = await loadCheckpoint(gpu, folder);
      const out = gpu.scope(() => loaded.model.forward(gpu.tensor([1, 5, 9, 2], [1, 4], "i32")));
      const values = Array.from(await out.read());
      out.dispose();
      loaded.model.dispose();
      return values;
    } finally {
      await rm(folder, { recursive: true });
    }
  }
  const weights = (folder: string): string => join(folder, "model.safetensors");

  it.each([
    ["without a prefix", (name: string) => name.replace(/^model\./, "")],
    ["below transformer.", (name: string) => name.replace(/^model\./, "transformer.")],
    ["of a language model inside another", (name: string) => `language_model.${name}`],
  ])("names %s", async (_, f) => {
    const before = device.gpu.memory().liveBytes;
    expect(await logits("llama", (folder) => rewrite(weights(folder), rename(f)))).toEqual(
      await logits("llama"),
    );
    expect(device.gpu.memory().liveBytes).toBe(before);
  });

  it("names without a prefix in shards", async () => {
    const f = (name: string): string => name.replace(/^model\./, "");
    const changed = await logits("llama-sharded", async (folder) => {
      const index = join(folder, "model.safetensors.index.json");
      const json = JSON.parse(await readFile(index, "utf8")) as { weight_map: Record<string, string> };
      for (const file of new Set(Object.values(json.weight_map)))
        await rewrite(join(folder, file), rename(f));
      const map = Object.entries(json.weight_map).map(([name, file]) => [f(name), file] as const);
      await writeFile(index, JSON.stringify({ ...json, weight_map: Object.fromEntries(map) }));
    });
    expect(changed).toEqual(await logits("llama-sharded"));
  });

  it("a tied model whose file holds lm_head.weight alone", async () => {
    const tie = async (folder: string): Promise<void> => {
      const config = join(folder, "config.json");
      const json = JSON.parse(await readFile(config, "utf8")) as Record<string, unknown>;
      await writeFile(config, JSON.stringify({ ...json, tie_word_embeddings: true }));
    };
    const tied = await logits("llama", tie);
    const headOnly = await logits("llama", async (folder) => {
      await tie(folder);
      // The embedding's bytes under the head's name; the head's own bytes become a copy that is not needed.
      await rewrite(weights(folder), (header) => {
        const { "lm_head.weight": head, "model.embed_tokens.weight": embedding, ...rest } = header;
        return { ...rest, "lm_head.weight": embedding!, "rotary_emb.inv_freq": head! };
      });
    });
    expect(headOnly).toEqual(tied);
  });

  const f8: Header = { "model.layers.0.k_scale": { dtype: "F8_E4M3", shape: [4], data_offsets: [0, 4] } };

  it("a tensor of another type refuses the file only where it is needed", async () => {
    expect(await logits("llama", (folder) => rewrite(weights(folder), (h) => h, f8))).toEqual(
      await logits("llama"),
    );
    const before = device.gpu.memory().liveBytes;
    const needed = logits("llama", (folder) =>
      rewrite(
        weights(folder),
        ({ "model.norm.weight": norm, ...rest }) => ({ ...rest, "rotary_emb.inv_freq": norm! }),
        {
          "model.norm.weight": { dtype: "F8_E4M3", shape: [48], data_offsets: [0, 48] },
        },
      ),
    );
    await expect(needed).rejects.toThrow(
      /tensor "model\.norm\.weight" is F8_E4M3; weights are F32, F16 or BF16/,
    );
    expect(device.gpu.memory().liveBytes).toBe(before);
  });

  it("a missing tensor is named with what the file holds", async () => {
    const missing = logits("llama", (folder) =>
      rewrite(weights(folder), ({ "model.embed_tokens.weight": embedding, ...rest }) => ({
        ...rest,
        "rotary_emb.inv_freq": embedding!,
      })),
    );
    await expect(missing).rejects.toThrow(
      /model\.embed_tokens\.weight is missing \(there are: .*lm_head.* more\)/,
    );
  });

  it("two names of one tensor are refused", async () => {
    const one: Entry = { dtype: "F32", shape: [1], data_offsets: [0, 4] };
    const twice = logits("llama", (folder) =>
      rewrite(
        weights(folder),
        rename((name) => name.replace(/^model\./, "transformer.")),
        { "model.norm.weight": one },
      ),
    );
    await expect(twice).rejects.toThrow(/are both the model's model\.norm\.weight/);
  });
});
