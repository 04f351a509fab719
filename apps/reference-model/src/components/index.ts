import type { Components } from "./contract.js";
import { ENCODINGS } from "./encodings/index.js";
import { FFN_NAMES, FFNS } from "./ffns/index.js";
import { MIXERS } from "./mixers/index.js";
import { NORMS } from "./norms.js";

/** The parts that configurations name. */
export const COMPONENTS: Components = {
  encodings: ENCODINGS,
  norms: NORMS,
  mixers: MIXERS,
  ffns: FFNS,
  ffnNames: FFN_NAMES,
};

export type * from "./contract.js";
export { Block } from "./layer.js";
export { below, find } from "./find.js";
export { ParameterSet } from "./parameters.js";
