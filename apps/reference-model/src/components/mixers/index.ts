import { MemorizingAttention, RecurrentMemoryTransformer, TransformerXlAttention } from "@x/attention";
import { rmsNorm } from "@x/norm";
import type { Factory, Mixer } from "../contract.js";
import { attentionMixer } from "./attention.js";
import { mlaMixer } from "./mla.js";
import { packaged } from "./packaged.js";
import { SEQUENCE_MIXERS } from "./sequence.js";
import { yocoMixer } from "./yoco.js";

/** Mixers by type. A recurrent memory transformer is a stack: its memory tokens pass through all of its `layers`. */
export const MIXERS: Readonly<Record<string, Factory<Mixer>>> = {
  attention: attentionMixer,
  memorizing: packaged(MemorizingAttention, { required: ["segmentLen"] }),
  mla: mlaMixer,
  rmt: packaged(RecurrentMemoryTransformer, {
    defaults: ({ numHeads }, dim) => ({ headDim: dim / Number(numHeads) }),
    without: ["mode"],
    parts: { rmsNorm },
  }),
  transformerXl: packaged(TransformerXlAttention, {
    required: ["segmentLen", "memLen"],
    sizes: ["maxLength", "maxChunk"],
    positions: true,
  }),
  yoco: yocoMixer,
  ...SEQUENCE_MIXERS,
};
