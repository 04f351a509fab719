import { ConfigError, repeat, type Gpu, type Tensor } from "@x/kernels";
import type { Checkpoint, EncoderDecoderCheckpoint } from "../checkpoint/load.js";
import { checkLength } from "../model/context.js";
import { EncoderDecoderLM } from "../model/encoder_decoder.js";
import type { Decoder } from "../model/model.js";

/** Ids as a batch of one: i32 [1, seq]. */
export const row = (gpu: Gpu, ids: readonly number[]): Tensor => gpu.tensor(ids, [1, ids.length], "i32");

/** Whether a loaded model reads one text and writes another. */
export const hasEncoder = (
  loaded: Checkpoint | EncoderDecoderCheckpoint,
): loaded is EncoderDecoderCheckpoint => loaded.model instanceof EncoderDecoderLM;

/** @throws ConfigError where an option of rotations is given for a model that has none */
export function expectNoRope(
  ropeScaling: string | undefined,
  loaded: Checkpoint | EncoderDecoderCheckpoint,
): void {
  if (ropeScaling !== undefined && hasEncoder(loaded))
    throw new ConfigError(
      "--rope-scaling",
      `is given; the model is of type ${loaded.config.family}, which has no rotations`,
    );
}

/** @throws ConfigError for ids of an encoder that are none, or outside the vocabulary */
function expectIds(who: string, ids: readonly number[], vocabSize: number): void {
  if (ids.length === 0) throw new ConfigError(who, "the encoder's text has no tokens");
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (bad !== undefined)
    throw new ConfigError(who, `id ${String(bad)} is outside the vocabulary of ${vocabSize}`);
}

/**
 * The decoder of a model that has read a text, with `rows` rows of it, and the text's length warning, if any. The caller
 * disposes.
 *
 * @throws ConfigError
 */
export function readText(
  who: string,
  model: EncoderDecoderLM,
  ids: readonly number[],
  rows = 1,
): { decoder: Decoder; warning: string | undefined; dispose: () => void } {
  const { gpu, config } = model;
  expectIds(who, ids, config.encoder.vocabSize);
  const warning = checkLength(who, model.encoderLimits, ids.length);
  const states = gpu.keep(
    gpu.scope(() => {
      const { states: one } = model.encode(row(gpu, ids));
      return rows === 1 ? one : repeat(one, rows, 0);
    }),
  );
  return {
    decoder: model.conditioned({ states }),
    warning,
    dispose: () => {
      states.dispose();
    },
  };
}
