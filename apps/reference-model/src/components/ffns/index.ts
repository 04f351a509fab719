import { FeedForward, GatedFeedForward } from "@x/ffn";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { channelMix } from "./channel_mix.js";
import { denseBlock } from "./dense.js";
import { kanBlock } from "./kan.js";
import { MIXTURES } from "./mixtures.js";
import { noBlock } from "./none.js";

/** Feed-forward blocks by type. */
export const FFNS: Readonly<Record<string, Factory<FeedForwardBlock>>> = {
  none: noBlock,
  ffn: denseBlock(FeedForward, "c_proj"),
  glu: denseBlock(GatedFeedForward, "down_proj"),
  kan: kanBlock,
  rwkv4ChannelMix: channelMix,
  ...MIXTURES,
};

/** Where checkpoints put them, if not under "mlp". */
export const FFN_NAMES: Readonly<Record<string, string>> = { mixtral: "block_sparse_moe" };
