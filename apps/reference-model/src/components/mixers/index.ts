import type { Factory, Mixer } from "../contract.js";
import { attentionMixer } from "./attention.js";

/** Mixers by type. */
export const MIXERS: Readonly<Record<string, Factory<Mixer>>> = { attention: attentionMixer };
