import type { Factory, FeedForwardBlock } from "../contract.js";
import { gluBlock } from "./glu.js";
import { mixtralBlock } from "./mixtral.js";

/** Feed-forward blocks by type. */
export const FFNS: Readonly<Record<string, Factory<FeedForwardBlock>>> = {
  glu: gluBlock,
  mixtral: mixtralBlock,
};

/** Where checkpoints put them, if not under "mlp". */
export const FFN_NAMES: Readonly<Record<string, string>> = { mixtral: "block_sparse_moe" };
