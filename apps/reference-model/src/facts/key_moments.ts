import { keyCovariance } from "@x/ffn";
import { add, concat, ConfigError, gather, mul, type Tensor } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import { encodeDocuments } from "../corpus/data.js";
import { defaultWindow } from "../model/context.js";
import { padded, positionsOf, TOGETHER, type FactRow } from "./fact.js";
import type { LayerMemory } from "./layer_memory.js";

/**
 * Second moment of the keys of a layer over a text, and the mean of its diagonal.
 *
 * @throws ConfigError if the text is too short to say anything.
 */
export async function keyMoments(
  open: LayerMemory,
  tokenizer: Tokenizer,
  documents: readonly string[],
  {
    tokens = 8192,
    seqLen = defaultWindow(open.model),
    batch = 8,
  }: { tokens?: number; seqLen?: number; batch?: number } = {},
): Promise<{ covariance: Tensor; scale: number }> {
  const { gpu } = open.model;
  const stream = encodeDocuments(documents, tokenizer);
  const chunk = seqLen * batch;
  const chunks = Math.floor(Math.min(stream.length, tokens) / chunk);
  if (chunks === 0)
    throw new ConfigError(
      "keyMoments",
      `the text has ${stream.length} tokens; it must have at least ${chunk}`,
    );
  let total: Tensor | undefined;
  for (let i = 0; i < chunks; i++) {
    const before = total;
    total = gpu.scope(() => {
      const ids = gpu.tensor(stream.subarray(i * chunk, (i + 1) * chunk), [batch, seqLen], "i32");
      const keys = open.keys(ids);
      const F = keys.shape.at(-1)!;
      const moment = mul(keyCovariance(keys.reshape([chunk, F])), 1 / chunks);
      keys.dispose();
      return gpu.keep(before ? add(before, moment) : moment);
    });
    before?.dispose();
  }
  const F = total!.shape[0]!;
  const diagonal = (await total!.read()).filter((_, i) => i % (F + 1) === 0);
  return { covariance: total!, scale: Array.from(diagonal).reduce((a, b) => a + b, 0) / F };
}

/** The keys of rows at their places: [rows, F]. */
export function rowKeys(open: LayerMemory, rows: readonly FactRow[]): Tensor {
  const { gpu } = open.model;
  return gpu.scope(() => {
    const found: Tensor[] = [];
    for (let start = 0; start < rows.length; start += TOGETHER) {
      const some = rows.slice(start, start + TOGETHER);
      const { ids, width } = padded(gpu, some);
      const keys = open.keys(ids);
      const places = positionsOf(
        gpu,
        some.map((row, i) => i * width + row.key),
      );
      found.push(gather(keys.reshape([some.length * width, keys.shape.at(-1)!]), places));
      keys.dispose();
    }
    return concat(found);
  });
}
