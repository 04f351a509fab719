import type { Factory, Mixer } from "../contract.js";
import { attentionMixer } from "./attention.js";
import { memorizingMixer } from "./memorizing.js";
import { mlaMixer } from "./mla.js";
import { rmtMixer } from "./rmt.js";
import { SEQUENCE_MIXERS } from "./sequence.js";
import { transformerXlMixer } from "./transformer_xl.js";
import { yocoMixer } from "./yoco.js";

/** Mixers by type. */
export const MIXERS: Readonly<Record<string, Factory<Mixer>>> = {
  attention: attentionMixer,
  memorizing: memorizingMixer,
  mla: mlaMixer,
  rmt: rmtMixer,
  transformerXl: transformerXlMixer,
  yoco: yocoMixer,
  ...SEQUENCE_MIXERS,
};
