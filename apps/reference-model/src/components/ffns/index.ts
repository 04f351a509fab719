import { FeedForward, GatedFeedForward } from "@x/ffn";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { deepseekBlock } from "./deepseek.js";
import { denseBlock } from "./dense.js";
import { expertChoiceBlock } from "./expert_choice.js";
import { gshardBlock } from "./gshard.js";
import { kanBlock } from "./kan.js";
import { mixtralBlock } from "./mixtral.js";
import { peerBlock } from "./peer.js";
import { switchBlock } from "./switch.js";

/** Feed-forward blocks by type. */
export const FFNS: Readonly<Record<string, Factory<FeedForwardBlock>>> = {
  ffn: denseBlock(FeedForward, "c_proj"),
  glu: denseBlock(GatedFeedForward, "down_proj"),
  kan: kanBlock,
  mixtral: mixtralBlock,
  switch: switchBlock,
  gshard: gshardBlock,
  deepseek: deepseekBlock,
  expertChoice: expertChoiceBlock,
  peer: peerBlock,
};

/** Where checkpoints put them, if not under "mlp". */
export const FFN_NAMES: Readonly<Record<string, string>> = { mixtral: "block_sparse_moe" };
