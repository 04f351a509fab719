export type { Part, PatternConfig } from "./config.js";
export {
  bigBird,
  blockLocal,
  causal,
  checkDecodable,
  dilatedSegment,
  dilatedWindow,
  full,
  globalTokens,
  maskMatrix,
  Pattern,
  pattern,
  perHead,
  randomBlocks,
  sink,
  slidingWindow,
  sparseFixed,
  sparseStrided,
  windowOf,
  type PatternSize,
} from "./pattern.js";
export type { PictureOptions } from "./picture.js";
export { drawBlocks, mix32 } from "./random.js";
