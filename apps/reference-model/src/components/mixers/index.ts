import type { Factory, Mixer } from "../contract.js";
import { attentionMixer } from "./attention.js";
import { linearAttentionMixer } from "./linear_attention.js";
import { memorizingMixer } from "./memorizing.js";
import { mlaMixer } from "./mla.js";
import { gatedRetentionMixer, retentionMixer } from "./retention.js";
import { rmtMixer } from "./rmt.js";
import { SEQUENCE_MIXERS } from "./sequence.js";
import { transformerXlMixer } from "./transformer_xl.js";
import { yocoMixer } from "./yoco.js";

/** Mixers by type. */
export const MIXERS: Readonly<Record<string, Factory<Mixer>>> = {
  attention: attentionMixer,
  gatedRetention: gatedRetentionMixer,
  linearAttention: linearAttentionMixer,
  memorizing: memorizingMixer,
  mla: mlaMixer,
  retention: retentionMixer,
  rmt: rmtMixer,
  transformerXl: transformerXlMixer,
  yoco: yocoMixer,
  ...SEQUENCE_MIXERS,
};
