import type { Factory, Mixer } from "../contract.js";
import { attentionMixer } from "./attention.js";
import { gatedLongConvMixer } from "./gated_long_conv.js";
import { griffinMixer } from "./griffin.js";
import { linearAttentionMixer } from "./linear_attention.js";
import { mambaMixer } from "./mamba.js";
import { mamba2Mixer } from "./mamba2.js";
import { memorizingMixer } from "./memorizing.js";
import { mlaMixer } from "./mla.js";
import { gatedRetentionMixer, retentionMixer } from "./retention.js";
import { rmtMixer } from "./rmt.js";
import { rwkv4Mixer } from "./rwkv4.js";
import { rwkv6Mixer } from "./rwkv6.js";
import { SEQUENCE_MIXERS } from "./sequence.js";
import { transformerXlMixer } from "./transformer_xl.js";
import { yocoMixer } from "./yoco.js";

/** Mixers by type. */
export const MIXERS: Readonly<Record<string, Factory<Mixer>>> = {
  attention: attentionMixer,
  gatedLongConv: gatedLongConvMixer,
  gatedRetention: gatedRetentionMixer,
  griffin: griffinMixer,
  linearAttention: linearAttentionMixer,
  mamba2: mamba2Mixer,
  mamba: mambaMixer,
  memorizing: memorizingMixer,
  mla: mlaMixer,
  retention: retentionMixer,
  rmt: rmtMixer,
  rwkv4: rwkv4Mixer,
  rwkv6: rwkv6Mixer,
  transformerXl: transformerXlMixer,
  yoco: yocoMixer,
  ...SEQUENCE_MIXERS,
};
