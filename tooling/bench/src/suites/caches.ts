#!/usr/bin/env node
/**
 * Caches: bytes a token takes, computed and measured; the time of a decoding step against the length of the context;
 * and a prompt through YOCO against one through a plain decoder.
 *
 *     node tooling/bench/dist/suites/caches.js [--out FILE.json] [--lengths 256,1024,4096] [--prompts 256,1024]
 */
import { writeFileSync } from "node:fs";
import { MultiHeadAttention, MultiHeadLatentAttention, Yoco, type KVCache } from "@x/attention";
import { GatedFeedForward } from "@x/ffn";
import { openDevice, randomNormal, type Gpu, type Tensor } from "@x/kernels";
import { rmsNorm } from "@x/norm";
import { RotaryEmbedding } from "@x/positional";
import { Command } from "commander";
import { fastest, interleaved, isMain } from "../measure/timing.js";

/** Sizes of all mechanisms alike: 8 heads of 64, four layers; MLA's latent as DeepSeek-V2 has it, in proportion. */
const SHAPE = { dim: 512, numHeads: 8, headDim: 64, layers: 4, window: 256 } as const;
const LATENT = { nopeDim: 64, ropeDim: 32, vDim: 64, kvRank: 256, qRank: 0 } as const;

export interface CacheRow {
  readonly mechanism: string;
  /** Bytes by which a token makes the caches of all layers grow: by the formula, and as the device's memory grew. */
  readonly bytesPerToken: number;
  readonly measuredBytesPerToken: number;
  /** Bytes of the caches at 4096 tokens. */
  readonly bytesAt4096: number;
  /** Milliseconds of a decoding step of one layer, by tokens in the cache; fastest of the repetitions. */
  readonly stepMilliseconds: Readonly<Record<number, number>>;
}

export interface PrefillRow {
  readonly tokens: number;
  readonly yocoMilliseconds: number;
  readonly plainMilliseconds: number;
  readonly ratio: number;
}

export interface CacheReport {
  readonly adapter: string;
  readonly software: boolean;
  readonly shape: Readonly<Record<string, number>>;
  readonly caches: readonly CacheRow[];
  readonly prefill: readonly PrefillRow[];
}

interface Held {
  dispose(): void;
}

/** A mechanism: its caches for all layers, and a step of one layer over a cache that holds `tokens`. */
interface Subject {
  readonly mechanism: string;
  readonly bytesPerToken: number;
  readonly allocate: (maxLength: number) => Held[];
  readonly step: (tokens: number) => { run: () => void; dispose: () => void };
}

const times = <T>(n: number, make: (i: number) => T): T[] => Array.from({ length: n }, (_, i) => make(i));

function multiHead(gpu: Gpu, mechanism: string, numKvHeads: number, window?: number): Subject {
  const { layers, ...shape } = SHAPE;
  const config = {
    dim: shape.dim,
    numHeads: shape.numHeads,
    headDim: shape.headDim,
    numKvHeads,
    window,
    causal: true,
  };
  const layer = MultiHeadAttention.init(gpu, config, { seed: 1 });
  const cacheOf = (maxLength: number): KVCache => layer.createState({ batch: 1, maxLength, maxChunk: 1 });
  return {
    mechanism,
    bytesPerToken: window === undefined ? layers * 2 * numKvHeads * shape.headDim * 4 : 0,
    allocate: (maxLength) => times(layers, () => cacheOf(maxLength)),
    step: (tokens) => {
      const cache = cacheOf(tokens);
      fill(gpu, cache, tokens);
      const x = gpu.keep(randomNormal(gpu, [1, 1, shape.dim], { seed: 2 }));
      const positions = gpu.keep(gpu.tensor([tokens - 1], [1, 1], "i32"));
      return {
        run: () => void layer.forward(x, { state: cache, positions }),
        dispose: () => {
          for (const t of [cache, x, positions]) t.dispose();
        },
      };
    },
  };
}

/** Random keys and values at all positions that the cache would hold. */
function fill(gpu: Gpu, cache: KVCache, tokens: number): void {
  const held = Math.min(tokens, cache.slots);
  for (let start = tokens - held; start < tokens; start += cache.maxChunk)
    gpu.scope(() => {
      const n = Math.min(cache.maxChunk, tokens - start);
      const [, , heads, dim] = cache.keys.shape as [number, number, number, number];
      const rows = (seed: number): Tensor => randomNormal(gpu, [1, n, heads, dim], { seed, stream: start });
      cache.append(
        rows(3),
        rows(4),
        gpu.tensor(
          times(n, (i) => start + i),
          [1, n],
          "i32",
        ),
      );
    });
}

function latent(gpu: Gpu): Subject {
  const { layers, dim, numHeads } = SHAPE;
  const layer = MultiHeadLatentAttention.init(
    gpu,
    { dim, numHeads, ...LATENT },
    { seed: 1 },
    {
      rmsNorm,
      rope: new RotaryEmbedding({ headDim: LATENT.ropeDim, layout: "interleaved" }),
    },
  );
  const width = LATENT.kvRank + LATENT.ropeDim;
  return {
    mechanism: `MLA (kvRank ${LATENT.kvRank}, ropeDim ${LATENT.ropeDim})`,
    bytesPerToken: layers * width * 4,
    allocate: (maxLength) => times(layers, () => layer.createState({ batch: 1, maxLength })),
    step: (tokens) => {
      const cache = layer.createState({ batch: 1, maxLength: tokens });
      gpu.scope(() => {
        const ids = gpu.tensor(
          times(tokens, (i) => i),
          [1, tokens],
          "i32",
        );
        cache.append(randomNormal(gpu, [1, tokens, 1, width], { seed: 3 }), ids);
      });
      const x = gpu.keep(randomNormal(gpu, [1, 1, dim], { seed: 2 }));
      const positions = gpu.keep(gpu.tensor([tokens - 1], [1, 1], "i32"));
      return {
        run: () => void layer.forward(x, { state: cache, positions, form: "absorbed" }),
        dispose: () => {
          for (const t of [cache, x, positions]) t.dispose();
        },
      };
    },
  };
}

/** Half of the layers with windows, half reading one shared cache; a step is the mean of the two kinds. */
function yoco(gpu: Gpu): Subject {
  const { dim, numHeads, headDim, layers, window } = SHAPE;
  const half = layers / 2;
  const config = {
    dim,
    numHeads,
    numKvHeads: 2,
    headDim,
    ffnDim: 64,
    selfLayers: half,
    crossLayers: half,
    window,
  };
  const model = Yoco.init(gpu, config, { seed: 1 });
  const upper = multiHead(gpu, "", 2);
  const lower = multiHead(gpu, "", numHeads, window);
  return {
    mechanism: "YOCO (2 kv heads shared by the upper half)",
    bytesPerToken: 2 * 2 * headDim * 4,
    allocate: (maxLength) => [model.createState({ batch: 1, maxLength, maxChunk: 1 })],
    step: (tokens) => {
      const [a, b] = [upper.step(tokens), lower.step(tokens)];
      return {
        run: () => {
          a.run();
          b.run();
        },
        dispose: () => {
          a.dispose();
          b.dispose();
        },
      };
    },
  };
}

async function cacheRow(
  gpu: Gpu,
  subject: Subject,
  lengths: readonly number[],
  repeats: number,
): Promise<CacheRow> {
  const live = (maxLength: number): number => {
    const before = gpu.memory().liveBytes;
    const held = subject.allocate(maxLength);
    const bytes = gpu.memory().liveBytes - before;
    for (const cache of held) cache.dispose();
    return bytes;
  };
  const [short, long] = [live(2048), live(4096)];
  const stepMilliseconds: Record<number, number> = {};
  for (const tokens of lengths) {
    const step = subject.step(tokens);
    const milliseconds = await fastest(gpu, repeats, step.run);
    stepMilliseconds[tokens] = subject.mechanism.startsWith("YOCO") ? milliseconds / 2 : milliseconds;
    step.dispose();
  }
  return {
    mechanism: subject.mechanism,
    bytesPerToken: subject.bytesPerToken,
    measuredBytesPerToken: (long - short) / 2048,
    bytesAt4096: long,
    stepMilliseconds,
  };
}

/** A pre-norm decoder with rotary positions and full attention in every layer. */
function plainDecoder(
  gpu: Gpu,
  c: { dim: number; numHeads: number; headDim: number; ffnDim: number; layers: number },
) {
  const rope = new RotaryEmbedding({ headDim: c.headDim });
  const ones = gpu.keep(gpu.full([c.dim], 1));
  const layers = times(c.layers, (l) => ({
    attention: MultiHeadAttention.init(
      gpu,
      { dim: c.dim, numHeads: c.numHeads, headDim: c.headDim, causal: true },
      { seed: l },
      { rope },
    ),
    ffn: GatedFeedForward.init(gpu, { dim: c.dim, hiddenDim: c.ffnDim }, { seed: l, stream: 100 }),
  }));
  return {
    createCache: (maxLength: number): KVCache[] =>
      layers.map(({ attention }) => attention.createState({ batch: 1, maxLength })),
    forward: (x: Tensor, caches: readonly KVCache[]): Tensor => {
      let h = x;
      layers.forEach(({ attention, ffn }, l) => {
        h = gpu.scope(() => {
          const mixed = attention.forward(rmsNorm(h, { weight: ones }), { state: caches[l]!, residual: h });
          return ffn.forward(rmsNorm(mixed, { weight: ones }), { residual: mixed });
        });
      });
      return h;
    },
  };
}

async function prefillRows(gpu: Gpu, prompts: readonly number[], repeats: number): Promise<PrefillRow[]> {
  const c = { dim: 256, numHeads: 4, headDim: 64, ffnDim: 688 };
  const parts = { rmsNorm, rope: new RotaryEmbedding({ headDim: c.headDim, layout: "interleaved" }) };
  const config = { ...c, numKvHeads: 4, selfLayers: 4, crossLayers: 4, window: SHAPE.window };
  const model = Yoco.init(gpu, config, { seed: 1 }, parts);
  const plain = plainDecoder(gpu, { ...c, layers: 8 });
  const rows: PrefillRow[] = [];
  for (const tokens of prompts) {
    const x = gpu.keep(randomNormal(gpu, [1, tokens, c.dim], { seed: 2 }));
    const cache = model.createState({ batch: 1, maxLength: tokens, maxChunk: 256 });
    const caches = plain.createCache(tokens);
    const measured = await interleaved(
      gpu,
      {
        yoco: () => {
          cache.clear();
          model.prefill(x, cache);
        },
        plain: () => {
          for (const held of caches) held.clear();
          plain.forward(x, caches);
        },
      },
      repeats,
    );
    const [yocoMilliseconds, plainMilliseconds] = [measured.yoco.min, measured.plain.min];
    rows.push({ tokens, yocoMilliseconds, plainMilliseconds, ratio: plainMilliseconds / yocoMilliseconds });
    for (const held of [x, cache, ...caches]) held.dispose();
  }
  return rows;
}

export interface CacheBenchOptions {
  readonly lengths?: readonly number[];
  readonly prompts?: readonly number[];
  readonly repeats?: number;
}

/** Run all of it. */
export async function benchCaches(gpu: Gpu, options: CacheBenchOptions = {}): Promise<CacheReport> {
  const { lengths = [256, 1024, 4096], prompts = [256, 1024], repeats = 5 } = options;
  const { numHeads, window } = SHAPE;
  const subjects = [
    multiHead(gpu, "MHA (8 kv heads)", numHeads),
    multiHead(gpu, "GQA (2 kv heads)", 2),
    multiHead(gpu, "MQA (1 kv head)", 1),
    latent(gpu),
    multiHead(gpu, `MHA, sliding window of ${window}`, numHeads, window),
    yoco(gpu),
  ];
  const caches: CacheRow[] = [];
  for (const subject of subjects) caches.push(await cacheRow(gpu, subject, lengths, repeats));
  return {
    adapter: gpu.info.name,
    software: gpu.info.software,
    shape: { ...SHAPE },
    caches,
    prefill: await prefillRows(gpu, prompts, repeats),
  };
}

/** The report as two tables of text. */
export function showCaches(report: CacheReport): string {
  const lengths = Object.keys(report.caches[0]?.stepMilliseconds ?? {});
  const lines = [
    `| mechanism (4 layers, 8 heads of 64) | bytes a token | measured | MiB at 4096 | ${lengths.map((n) => `step at ${n}`).join(" | ")} |`,
    `| --- | --- | --- | --- | ${lengths.map(() => "---").join(" | ")} |`,
    ...report.caches.map(
      (row) =>
        `| ${row.mechanism} | ${row.bytesPerToken} | ${row.measuredBytesPerToken} | ${(row.bytesAt4096 / 2 ** 20).toFixed(2)} | ${lengths.map((n) => `${row.stepMilliseconds[Number(n)]!.toFixed(2)} ms`).join(" | ")} |`,
    ),
    "",
    "| prompt | YOCO (4 + 4 layers) | plain decoder (8 layers) | plain / YOCO |",
    "| --- | --- | --- | --- |",
    ...report.prefill.map(
      (row) =>
        `| ${row.tokens} | ${row.yocoMilliseconds.toFixed(0)} ms | ${row.plainMilliseconds.toFixed(0)} ms | ${row.ratio.toFixed(2)} |`,
    ),
  ];
  return lines.join("\n");
}

const numbers = (text: string): number[] => text.split(",").map(Number);

async function main(): Promise<void> {
  const flags = new Command("caches")
    .description("Bytes of caches, decoding time against context, YOCO's prefill against a plain decoder's.")
    .option("--out <file>", "also write the report as JSON")
    .option("--lengths <list>", "tokens in the cache", numbers)
    .option("--prompts <list>", "tokens of a prompt", numbers)
    .option("--repeats <n>", "the fastest counts", Number)
    .parse()
    .opts<{ out?: string; lengths?: number[]; prompts?: number[]; repeats?: number }>();
  const gpu = await openDevice();
  const { out, ...options } = flags;
  const report = await benchCaches(gpu, options);
  console.log(`${report.adapter}\n\n${showCaches(report)}`);
  if (out !== undefined) writeFileSync(out, `${JSON.stringify(report, null, 2)}\n`);
  gpu.destroy();
}

if (isMain(import.meta.url)) await main();
