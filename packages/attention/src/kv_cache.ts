import {
  checkConfig,
  ConfigError,
  defineKernel,
  expectInteger,
  expectShape,
  grid1d,
  type Gpu,
  type Kernel,
  type Tensor,
} from "@x/kernels";
import type { AttentionPositions } from "./engine/attention.js";

export interface KVCacheConfig {
  readonly batch: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Default headDim. */
  readonly valueDim?: number;
  /** Tokens of the longest sequence. */
  readonly maxLength: number;
  /** Keys that a query sees, the own one included; the cache is then a ring. */
  readonly window?: number | undefined;
  /** Most tokens appended at a time; a ring keeps window - 1 + maxChunk. Default 64. */
  readonly maxChunk?: number;
  readonly dtype?: "f32" | "f16";
}

interface AppendVariant {
  readonly from: string;
  readonly to: string;
}

/** Row s of x goes to slot position % slots; the slots' positions are noted on the way. */
const appendKernel: Kernel<AppendVariant> = defineKernel({
  name: "kvCacheAppend",
  bindings: (v: AppendVariant) => ({
    k: `read ${v.from}` as const,
    v: `read ${v.from}` as const,
    positions: "read i32" as const,
    keys: `read_write ${v.to}` as const,
    values: `read_write ${v.to}` as const,
    key_positions: "read_write i32" as const,
  }),
  params: { rows: "u32", seq: "u32", slots: "u32", k_width: "u32", v_width: "u32" },
  wgsl: (v) => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  let width = max(params.k_width, params.v_width);
  let row = i / width;
  let d = i % width;
  if (row >= params.rows) { return; }
  let position = positions[row];
  if (position < 0) { return; }
  let slot = row / params.seq * params.slots + u32(position) % params.slots;
  if (d < params.k_width) { keys[slot * params.k_width + d] = ${v.to}(k[row * params.k_width + d]); }
  if (d < params.v_width) { values[slot * params.v_width + d] = ${v.to}(v[row * params.v_width + d]); }
  if (d == 0u) { key_positions[slot] = position; }
}`,
});

/**
 * Keys and values of the tokens so far, as tensors of fixed size, so that a decoding step can be recorded: rows are
 * found by position, and a slot that is empty has position -1. With a window it is a ring that never grows.
 *
 * keys [batch, slots, kvHeads, headDim], values [batch, slots, kvHeads, valueDim] ("bshd").
 */
export class KVCache {
  readonly config: KVCacheConfig;
  readonly slots: number;
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly #positions: Tensor;

  /** @throws ConfigError */
  constructor(gpu: Gpu, config: KVCacheConfig) {
    const who = "KVCache";
    checkConfig(who, config, [
      "batch",
      "numKvHeads",
      "headDim",
      "valueDim",
      "maxLength",
      "window",
      "maxChunk",
      "dtype",
    ]);
    const {
      batch,
      numKvHeads,
      headDim,
      valueDim = headDim,
      maxLength,
      window,
      maxChunk = 64,
      dtype = "f32",
    } = config;
    for (const [name, n] of Object.entries({ batch, numKvHeads, headDim, valueDim, maxLength, maxChunk }))
      expectInteger(who, name, n, 1);
    if (window !== undefined) expectInteger(who, "window", window, 1);
    this.config = config;
    this.slots = window === undefined ? maxLength : Math.min(maxLength, window - 1 + maxChunk);
    this.keys = gpu.keep(gpu.zeros([batch, this.slots, numKvHeads, headDim], dtype));
    this.values = gpu.keep(gpu.zeros([batch, this.slots, numKvHeads, valueDim], dtype));
    this.#positions = gpu.keep(gpu.full([batch, this.slots], -1, "i32"));
  }

  /** Bytes that one more token takes, while the cache grows. */
  get bytesPerToken(): number {
    return (this.keys.byteLength + this.values.byteLength) / this.slots / this.config.batch;
  }

  /** Store k and v [batch, seq, kvHeads, dim] of the tokens at `positions` (i32 [batch, seq]). */
  append(k: Tensor, v: Tensor, positions: Tensor): void {
    const who = "KVCache.append";
    const [batch, , heads, dim] = this.keys.shape as [number, number, number, number];
    const valueDim = this.values.shape[3]!;
    const { seq } = expectShape(who, "k", k, [batch, "seq", heads, dim]) as { seq: number };
    expectShape(who, "v", v, [batch, seq, heads, valueDim]);
    expectShape(who, "positions", positions, [batch, seq]);
    const { window, maxChunk = 64 } = this.config;
    if (window !== undefined && seq > Math.min(maxChunk, this.slots)) {
      throw new ConfigError(
        who,
        `given ${seq} tokens; a ring takes at most ${Math.min(maxChunk, this.slots)} at a time (maxChunk)`,
      );
    }
    const [kWidth, vWidth] = [heads * dim, heads * valueDim];
    k.gpu.run(appendKernel, {
      variant: { from: k.dtype, to: this.keys.dtype },
      bindings: { k, v, positions, keys: this.keys, values: this.values, key_positions: this.#positions },
      params: { rows: batch * seq, seq, slots: this.slots, k_width: kWidth, v_width: vWidth },
      workgroups: grid1d(Math.ceil((batch * seq * Math.max(kWidth, vWidth)) / 64)),
    });
  }

  /** What attention over the cache needs to know of positions. */
  positions(query: Tensor): AttentionPositions {
    return { query, key: this.#positions };
  }

  /** Forget everything. */
  clear(): void {
    this.#positions.write(new Int32Array(this.#positions.size).fill(-1));
  }

  dispose(): void {
    for (const t of [this.keys, this.values, this.#positions]) t.dispose();
  }
}
