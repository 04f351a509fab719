import { closeSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { loadCheckpoint } from "./load.js";

const MB = 2 ** 20;
const REASON = "writes and reads a model of 1.1 GB; LARGE_MODEL=1 runs it";

/** Llama's keys; the embedding, 256 MiB, is larger than one storage binding of the software adapter. */
const CONFIG = {
  ...{ model_type: "llama", vocab_size: 32768, hidden_size: 2048, intermediate_size: 5504 },
  ...{ num_hidden_layers: 4, num_attention_heads: 16, num_key_value_heads: 16, rms_norm_eps: 1e-6 },
  ...{ max_position_embeddings: 64, tie_word_embeddings: true, rope_theta: 10000 },
};

function shapes(): Record<string, readonly number[]> {
  const { hidden_size: dim, intermediate_size: wide, vocab_size: vocab, num_hidden_layers: layers } = CONFIG;
  const out: Record<string, readonly number[]> = {
    "model.embed_tokens.weight": [vocab, dim],
    "model.norm.weight": [dim],
  };
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    for (const name of ["q", "k", "v", "o"]) out[`${at}.self_attn.${name}_proj.weight`] = [dim, dim];
    for (const name of ["gate", "up"]) out[`${at}.mlp.${name}_proj.weight`] = [wide, dim];
    out[`${at}.mlp.down_proj.weight`] = [dim, wide];
    for (const name of ["input", "post_attention"]) out[`${at}.${name}_layernorm.weight`] = [dim];
  }
  return out;
}

const bytesOf = (shape: readonly number[]): number => shape.reduce((x, y) => x * y, 4);

/** A folder of f32 weights, each 0.01. */
function writeFolder(folder: string): void {
  writeFileSync(join(folder, "config.json"), JSON.stringify(CONFIG));
  let end = 0;
  const header = Object.fromEntries(
    Object.entries(shapes()).map(([name, shape]) => {
      const start = end;
      end += bytesOf(shape);
      return [name, { dtype: "F32", shape, data_offsets: [start, end] }];
    }),
  );
  const json = Buffer.from(JSON.stringify(header).padEnd(8192));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const file = openSync(join(folder, "model.safetensors"), "w");
  writeSync(file, length);
  writeSync(file, json);
  const piece = Buffer.from(new Float32Array(MB).fill(0.01).buffer);
  for (let left = end; left > 0; left -= piece.length)
    writeSync(file, piece, 0, Math.min(left, piece.length));
  closeSync(file);
}

describe("a folder of 1 GB", () => {
  const device = useGpu();

  it("loads with one tensor at a time in host memory, and its size on the GPU", async ({ skip }) => {
    if (process.env["LARGE_MODEL"] === undefined) skip(REASON);
    const { gpu } = device;
    const folder = mkdtempSync(join(tmpdir(), "large-model-"));
    try {
      writeFolder(folder);
      const size = statSync(join(folder, "model.safetensors")).size;
      const largest = Math.max(...Object.values(shapes()).map(bytesOf));
      const before = process.memoryUsage().arrayBuffers;
      let [host, onGpu] = [0, 0];
      const started = performance.now();
      const { model } = await loadCheckpoint(gpu, folder, {
        onTensor: () => {
          host = Math.max(host, process.memoryUsage().arrayBuffers - before);
          onGpu = Math.max(onGpu, gpu.memory().liveBytes);
        },
      });
      await gpu.sync();
      const seconds = (performance.now() - started) / 1000;
      const logits = gpu.scope(() => model.forward(gpu.tensor([1, 2], [1, 2], "i32"), { lastOnly: true }));
      expect((await logits.read()).every(Number.isFinite)).toBe(true);
      const [mib, hostMib, gpuMib] = [size, host, onGpu].map((bytes) => (bytes / MB).toFixed(0));
      console.log(
        `a model of ${mib} MiB loaded in ${seconds.toFixed(1)} s: at most ${hostMib} MiB in host memory ` +
          `(its largest tensor has ${(largest / MB).toFixed(0)}), ${gpuMib} MiB on the GPU`,
      );
      expect(onGpu).toBeLessThan(1.1 * size);
      expect(host).toBeLessThan(1.5 * largest);
      model.dispose();
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
