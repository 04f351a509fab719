import { randomInt } from "node:crypto";
import type { Tokenizer } from "@x/tokenizer";
import type { ChatTemplate } from "../chat/template.js";
import type { Decoder } from "../model/model.js";
import { ApiError } from "./errors.js";
import type { Metrics } from "./metrics.js";
import type { CachePool } from "./pool.js";
import type { CommonRequest } from "./requests.js";
import type { Scheduler } from "./scheduler.js";
import { Sequence, type Piece } from "./sequence.js";

/** What requests get where they do not say otherwise. */
export interface Defaults {
  readonly temperature: number;
  readonly topP: number;
  /** Tokens of a completion; those of a chat go on until the context is full. */
  readonly maxTokens: number;
}

/** What the routes work with. */
export interface Service {
  /** The id of the model in the API. */
  readonly name: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: Decoder;
  readonly tokenizer: Tokenizer;
  readonly pool: CachePool;
  readonly scheduler: Scheduler;
  readonly metrics: Metrics;
  readonly defaults: Defaults;
  /** How the model wants conversations written; undefined where it does not say. */
  readonly chat: ChatTemplate | undefined;
  /** Hears of faults of the server, which clients are not told. */
  readonly onFault: (error: unknown) => void;
}

/** What a route asks for besides what all requests have. */
interface Wanted {
  readonly maxTokens: number | undefined;
  readonly topLogprobs: number | undefined;
}

/** Ids of logit_bias with their biases. @throws ApiError for ids outside the vocabulary */
function biases(given: CommonRequest["logit_bias"], vocabSize: number): ReadonlyMap<number, number> {
  const entries = Object.entries(given ?? {}).map(([id, bias]) => [Number(id), bias] as const);
  for (const [id] of entries)
    if (id >= vocabSize)
      throw new ApiError(400, `logit_bias: id ${id} is outside the vocabulary of ${vocabSize}`, {
        param: "logit_bias",
        code: "invalid_value",
      });
  return new Map(entries);
}

/** @throws ApiError */
function checkPrompt(prompt: readonly number[], { model, pool }: Service, param: string): void {
  const { vocabSize } = model.config;
  const bad = prompt.find((id) => id >= vocabSize);
  if (bad !== undefined)
    throw new ApiError(400, `${param}: id ${bad} is outside the vocabulary of ${vocabSize}`, {
      param,
      code: "invalid_value",
    });
  if (prompt.length === 0)
    throw new ApiError(400, `${param}: is empty, and the model has no token for the beginning of a text`, {
      param,
      code: "invalid_value",
    });
  if (prompt.length >= pool.length)
    throw new ApiError(
      400,
      `${param}: has ${prompt.length} tokens; the context is ${pool.length} tokens, of which the answer needs at least one`,
      { param, code: "context_length_exceeded" },
    );
}

/** The sequences of a request: n of each prompt, in the order of the answer's choices. @throws ApiError */
export function sequencesOf(
  service: Service,
  prompts: readonly (readonly number[])[],
  request: CommonRequest,
  { maxTokens, topLogprobs }: Wanted,
  param: string,
): Sequence[] {
  const { model, tokenizer, pool, scheduler, defaults } = service;
  for (const prompt of prompts) checkPrompt(prompt, service, param);
  const n = request.n ?? 1;
  const { capacity } = scheduler;
  if (n * prompts.length > capacity)
    throw new ApiError(
      400,
      `n: ${n * prompts.length} texts are asked for; the rows and the queue hold ${capacity}`,
      { param: "n", code: "invalid_value" },
    );
  const logitBias = biases(request.logit_bias, model.config.vocabSize);
  const stop = typeof request.stop === "string" ? [request.stop] : (request.stop ?? []);
  const seed = request.seed ?? randomInt(2 ** 47);
  const { eosTokenId } = tokenizer;
  return prompts.flatMap((prompt, at) =>
    Array.from({ length: n }, (_, i) => {
      const room = pool.length - prompt.length;
      return new Sequence(tokenizer, {
        prompt,
        maxTokens: Math.min(room, maxTokens ?? room),
        stop,
        seed,
        choice: at * n + i,
        eosTokenIds: [...model.config.eosTokenIds, ...(eosTokenId === undefined ? [] : [eosTokenId])],
        temperature: request.temperature ?? defaults.temperature,
        topP: request.top_p ?? defaults.topP,
        frequencyPenalty: request.frequency_penalty ?? 0,
        presencePenalty: request.presence_penalty ?? 0,
        logitBias,
        topLogprobs,
      });
    }),
  );
}

/** A piece of one of the choices. */
export interface ChoicePiece {
  readonly index: number;
  readonly piece: Piece;
}

/**
 * Run sequences and read their pieces as they come. Cancelling the stream, or `signal`, frees their rows.
 *
 * @throws RefusedError
 */
export function run(
  { scheduler, metrics }: Service,
  sequences: readonly Sequence[],
  signal: AbortSignal,
): ReadableStream<ChoicePiece> {
  const started = performance.now();
  let open = sequences.length;
  let first = true;
  const cancel = (): void => {
    if (open === 0) return;
    open = 0;
    metrics.cancelled.inc();
    for (const sequence of sequences) scheduler.cancel(sequence);
  };
  return new ReadableStream<ChoicePiece>({
    start(controller) {
      const end = (): void => {
        signal.removeEventListener("abort", abort);
      };
      const abort = (): void => {
        cancel();
        end();
        controller.error(signal.reason);
      };
      scheduler.submit(sequences, {
        onStart: ({ options, reused }) => {
          metrics.promptTokens.inc(options.prompt.length);
          metrics.reusedTokens.inc(reused);
        },
        onPiece: (sequence, piece) => {
          if (open === 0) return;
          if (first) metrics.firstToken.observe((performance.now() - started) / 1000);
          first = false;
          metrics.generatedTokens.inc();
          controller.enqueue({ index: sequence.options.choice, piece });
          if (piece.finish !== undefined && --open === 0) {
            metrics.duration.observe((performance.now() - started) / 1000);
            end();
            controller.close();
          }
        },
        onError: (error) => {
          if (open === 0) return;
          open = 0;
          end();
          controller.error(error);
        },
      });
      if (signal.aborted) abort();
      else signal.addEventListener("abort", abort);
    },
    cancel,
  });
}

/** Tokens of a request, as OpenAI counts them: a prompt counts once however many choices it has. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

export function usageOf(sequences: readonly Sequence[], n: number): Usage {
  const prompts = sequences.filter((_, i) => i % n === 0);
  const sum = (of: readonly Sequence[], count: (one: Sequence) => number): number =>
    of.reduce((total, one) => total + count(one), 0);
  const prompt = sum(prompts, ({ options }) => options.prompt.length);
  const completion = sum(sequences, ({ generated }) => generated);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: sum(prompts, ({ reused }) => reused) },
  };
}
