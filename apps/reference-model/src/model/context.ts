import { ConfigError } from "@x/kernels";
import type { Decoder } from "./model.js";

/** The rule of a model's context, for the help of commands. */
export const CONTEXT_RULE = `The context of a model is the number of its positions (max_position_embeddings, maxLength).
A continuation ends where the context does. A prompt or a window beyond it draws a warning where the model's encoding
goes on (RoPE, ALiBi, none), and is refused where each position has a vector of its own (learned).
A window that is not given is the usual one, or the context where that is shorter.`;

/** What a model says of the lengths that it can take. */
export type Limits = Pick<Decoder, "positions"> & { readonly config: { readonly maxLength: number } };

/**
 * Checks that a model has positions for a text of `length` tokens.
 *
 * @returns a warning where the text is longer than the model was made for
 * @throws ConfigError where it has no vectors for them
 */
export function checkLength(who: string, model: Limits, length: number): string | undefined {
  const { positions, config } = model;
  if (positions !== undefined && length > positions)
    throw new ConfigError(
      who,
      `${length} tokens are more than the ${positions} positions that the model has`,
    );
  return length > config.maxLength
    ? `${length} tokens are more than the ${config.maxLength} positions that the model is made for; what comes may be poor`
    : undefined;
}

/** Tokens that a continuation may have: as many as asked for, until the context is full. */
export function continuationLength(model: Decoder, prompt: number, asked: number): number {
  const context = model.context;
  // A prompt that fills the context has drawn a warning already, and goes on for one context at most.
  const room = prompt < context ? context - prompt : model.positions === undefined ? context : 0;
  return Math.min(asked, room);
}

/** Tokens of a window where none is asked for. */
export const WINDOW = 128;

/** A window of the usual length, but never beyond the model's context. */
export const defaultWindow = (model: Pick<Decoder, "context">): number => Math.min(WINDOW, model.context);
