import {
  GatedDeltaNet,
  GatedLongConv,
  GatedRetention,
  GriffinBlock,
  H3,
  LinearAttention,
  Lru,
  Mamba2Block,
  MambaBlock,
  MultiScaleRetention,
  Rwkv4TimeMix,
  Rwkv6TimeMix,
  S4d,
  S5,
} from "@x/attention/sequence";
import type { ComponentSpec } from "../../config/index.js";
import type { Factory, Mixer } from "../contract.js";
import { packaged } from "./packaged.js";

/** A text is gone through in chunks of 64 tokens where its configuration does not say how. */
const inChunks = ({ form }: ComponentSpec): Readonly<Record<string, unknown>> =>
  (form ?? "chunkwise") === "chunkwise" ? { form: "chunkwise", chunkSize: 64 } : {};

/** Mixers without softmax, by type. */
export const SEQUENCE_MIXERS: Readonly<Record<string, Factory<Mixer>>> = {
  gatedDeltaNet: packaged(GatedDeltaNet),
  gatedLongConv: packaged(GatedLongConv),
  gatedRetention: packaged(GatedRetention, { defaults: inChunks }),
  griffin: packaged(GriffinBlock),
  h3: packaged(H3),
  linearAttention: packaged(LinearAttention, { defaults: inChunks, without: ["causal"] }),
  lru: packaged(Lru),
  mamba: packaged(MambaBlock),
  mamba2: packaged(Mamba2Block),
  retention: packaged(MultiScaleRetention, { defaults: inChunks, without: ["denominator"] }),
  rwkv4: packaged(Rwkv4TimeMix),
  rwkv6: packaged(Rwkv6TimeMix),
  s4d: packaged(S4d),
  s5: packaged(S5),
};
