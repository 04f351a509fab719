// Draws the pictures of the README from the patterns themselves: node packages/attention/pictures/draw.mjs
import { writeFileSync } from "node:fs";
import {
  bigBird,
  blockLocal,
  causal,
  dilatedSegment,
  dilatedWindow,
  globalTokens,
  randomBlocks,
  sink,
  slidingWindow,
  sparseFixed,
  sparseStrided,
} from "../dist/index.js";

const pictures = {
  causal: ["causal()", causal()],
  sliding_window: ["causal().and(slidingWindow(6))", causal().and(slidingWindow(6))],
  block_local: ["blockLocal(8, 1, 1)", blockLocal(8, 1, 1)],
  dilated_window: ["dilatedWindow(4, 4, 3)", dilatedWindow(4, 4, 3)],
  longformer: ["slidingWindow(4).or(globalTokens(2))", slidingWindow(4).or(globalTokens(2))],
  sink: ["slidingWindow(5, 0).or(sink(2))", slidingWindow(5, 0).or(sink(2))],
  random: ["randomBlocks(2, 1, { block: 4 })", randomBlocks(2, 1, { block: 4 })],
  bigbird: ["bigBird({ block: 4, .. })", bigBird({ block: 4, randomBlocks: 1, seed: 1 })],
  sparse_strided: ["sparseStrided(8)", sparseStrided(8)],
  sparse_fixed: ["sparseFixed(8, 2)", sparseFixed(8, 2)],
  longnet: ["dilatedSegment(16, 2)", dilatedSegment(16, 2)],
  composed: [
    "slidingWindow(4).or(globalTokens(2)).and(causal())",
    slidingWindow(4).or(globalTokens(2)).and(causal()),
  ],
};
for (const [name, [title, pattern]] of Object.entries(pictures))
  writeFileSync(
    new URL(`${name}.svg`, import.meta.url),
    pattern.svg({ queries: 32 }, { title, blocks: [8, 8] }),
  );
