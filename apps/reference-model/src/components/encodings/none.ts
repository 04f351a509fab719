import { Fields } from "../../config/index.js";
import type { Encoding, Factory } from "../contract.js";

/** No encoding at all: the causal mask alone lets a decoder infer order (NoPE, arXiv:2305.19466). */
export const none: Factory<Encoding> = (spec, weights) => {
  new Fields(`${weights.name}: position`, spec, ["type"]);
  return { parameters: () => ({}) };
};
