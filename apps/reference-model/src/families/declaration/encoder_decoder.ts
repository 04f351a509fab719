import { MAX_LAYERS } from "../../config/fields.js";
import type { EncoderDecoderConfig } from "../../config/model_config.js";
import type { EncoderDecoderTable } from "./encoder_decoder_names.js";
import { modelOf, type DecoderParts, type Family, type FamilyConfig } from "./family.js";

/** A family of public encoder-decoders: each stack is declared as that of a decoder-only family. */
export interface EncoderDecoderFamily extends Omit<Family, "tensors"> {
  readonly encoder: (config: FamilyConfig) => DecoderParts;
  /** Whether a file's output matrix counts whatever `tie_word_embeddings` says. */
  readonly headIfStored: (config: FamilyConfig) => boolean;
  readonly tensors: (config: FamilyConfig) => EncoderDecoderTable;
}

/** The model of a family's configuration. @throws ConfigError */
export function encoderDecoderOf(
  modelType: string,
  family: EncoderDecoderFamily,
  f: FamilyConfig,
): EncoderDecoderConfig {
  if (!f.flag("is_encoder_decoder", true))
    f.fail("is_encoder_decoder", `is false; a ${modelType} folder must hold an encoder and a decoder`);
  const last = f.integer("vocab_size") - 1;
  const own = f.with({ num_hidden_layers: f.integer("num_decoder_layers", f.numLayers, 1, MAX_LAYERS) });
  const padTokenId = f.integer("pad_token_id", 0, 0, last);
  return {
    family: modelType,
    encoder: modelOf(modelType, family.encoder(f), f),
    decoder: modelOf(modelType, family.decoder(own), own),
    headIfStored: family.headIfStored(f),
    padTokenId,
    decoderStartTokenId: f.integer("decoder_start_token_id", padTokenId, 0, last),
  };
}
