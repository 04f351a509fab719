import { ConfigError } from "@x/kernels";
import { expectObject } from "../config/fields.js";
import { PARTS_FAMILY, fromParts } from "../config/parts.js";
import type { EncoderDecoderConfig, ModelConfig } from "../config/model_config.js";
import { encoderDecoderOf, type EncoderDecoderFamily } from "./declaration/encoder_decoder.js";
import { EncoderDecoderNames } from "./declaration/encoder_decoder_names.js";
import { familyConfig, findFamily, modelOf, type Family, type FamilyConfig } from "./declaration/family.js";
import { TensorNames, type CheckpointNames } from "./declaration/tensor_names.js";
import { bloom } from "./dense/bloom.js";
import { falcon } from "./dense/falcon.js";
import { gemma2, gemma3Text } from "./dense/gemma.js";
import { gpt2 } from "./dense/gpt2.js";
import { gptNeoX } from "./dense/gpt_neox.js";
import { granite } from "./dense/granite.js";
import { llama } from "./dense/llama.js";
import { mistral } from "./dense/mistral.js";
import { mpt } from "./dense/mpt.js";
import { olmo2 } from "./dense/olmo2.js";
import { phi3 } from "./dense/phi3.js";
import { qwen2, qwen3 } from "./dense/qwen.js";
import { smollm3 } from "./dense/smollm3.js";
import { stablelm } from "./dense/stablelm.js";
import { starcoder2 } from "./dense/starcoder2.js";
import { deepseekV2, deepseekV3 } from "./experts/deepseek.js";
import { gptOss } from "./experts/gpt_oss.js";
import { mixtral, MIXTRAL_TENSORS } from "./experts/mixtral.js";
import { qwen3Moe } from "./experts/qwen3_moe.js";
import { mt5, t5 } from "./encoder_decoder/t5.js";
import { mamba, mamba2 } from "./recurrent/mamba.js";
import { qwen3Next } from "./recurrent/qwen3_next.js";
import { recurrentGemma } from "./recurrent/recurrent_gemma.js";
import { rwkv } from "./recurrent/rwkv.js";

export {
  TensorNames,
  type CheckpointNames,
  type Layout,
  type Reading,
  type Rows,
} from "./declaration/tensor_names.js";

/** Public families by their `model_type`. */
export const FAMILIES: Readonly<Record<string, Family>> = {
  llama,
  mistral,
  mixtral,
  qwen2,
  qwen3,
  gpt2,
  gpt_neox: gptNeoX,
  bloom,
  mpt,
  falcon,
  phi3,
  starcoder2,
  stablelm,
  gemma2,
  gemma3_text: gemma3Text,
  olmo2,
  smollm3,
  granite,
  qwen3_moe: qwen3Moe,
  qwen3_next: qwen3Next,
  gpt_oss: gptOss,
  deepseek_v2: deepseekV2,
  deepseek_v3: deepseekV3,
  rwkv,
  mamba,
  mamba2,
  recurrent_gemma: recurrentGemma,
};

/** Public families of encoder-decoders by their `model_type`. */
export const ENCODER_DECODERS: Readonly<Record<string, EncoderDecoderFamily>> = { t5, mt5 };

/** What a configuration's `model_type` may be. */
const KNOWN: Readonly<Record<string, "decoder" | "encoderDecoder" | "parts">> = {
  ...Object.fromEntries(Object.keys(FAMILIES).map((type) => [type, "decoder" as const])),
  ...Object.fromEntries(Object.keys(ENCODER_DECODERS).map((type) => [type, "encoderDecoder" as const])),
  [PARTS_FAMILY]: "parts",
};

/** Whether a `config.json` is that of an encoder-decoder. @throws ConfigError for a type that is not known */
export const isEncoderDecoder = (json: unknown, file = "config.json"): boolean =>
  findFamily(file, json, KNOWN)[1] === "encoderDecoder";

/**
 * A model's configuration from a `config.json`: of a public family, or one that names its parts.
 *
 * @throws ConfigError naming the key, what it must be and what it is
 */
export function modelConfig(json: unknown, file = "config.json"): ModelConfig {
  const [type, kind] = findFamily(file, json, KNOWN);
  if (kind === "parts") return fromParts(json, file);
  const family = FAMILIES[type];
  if (!family)
    throw new ConfigError(
      file,
      `model_type is ${JSON.stringify(type)}, an encoder-decoder; this needs a decoder-only model (generate, logits, info and convert take both)`,
    );
  const f = familyConfig(family, file, expectObject(file, json));
  return modelOf(type, family.decoder(f), f);
}

/**
 * An encoder-decoder's configuration from a `config.json`.
 *
 * @throws ConfigError naming the key, what it must be and what it is
 */
export function encoderDecoderConfig(json: unknown, file = "config.json"): EncoderDecoderConfig {
  const [type, family] = findFamily(file, json, ENCODER_DECODERS);
  return encoderDecoderOf(type, family, familyConfig(family, file, expectObject(file, json)));
}

/** Where checkpoints of a configuration have the model's tensors. @throws ConfigError */
export function tensorNames(json: unknown, file = "config.json"): CheckpointNames {
  const [type] = findFamily(file, json, KNOWN);
  const of = (family: Family | EncoderDecoderFamily): FamilyConfig =>
    familyConfig(family, file, expectObject(file, json));
  const both = ENCODER_DECODERS[type];
  if (both) return new EncoderDecoderNames(both.tensors(of(both)));
  const family = FAMILIES[type];
  if (!family) return new TensorNames(MIXTRAL_TENSORS);
  return new TensorNames(family.tensors?.(of(family)) ?? {});
}
