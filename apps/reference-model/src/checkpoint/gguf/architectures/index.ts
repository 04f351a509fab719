import type { Architecture } from "./architecture.js";
import { gemma2, gemma3 } from "./gemma.js";
import { gpt2 } from "./gpt2.js";
import { llama } from "./llama.js";
import { mamba } from "./mamba.js";
import { phi3 } from "./phi3.js";
import { qwen2, qwen3, qwen3moe } from "./qwen.js";

export type { Architecture, GgufFacts, Json, TensorRule, WrittenValue } from "./architecture.js";
export { ROPE_TENSORS, ropeTensors } from "./rope.js";

/** Architectures of llama.cpp that are read and written. */
export const ARCHITECTURES: readonly Architecture[] = [
  llama,
  qwen2,
  qwen3,
  qwen3moe,
  gemma2,
  gemma3,
  phi3,
  gpt2,
  mamba,
];
