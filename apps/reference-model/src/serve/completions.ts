import type { Context } from "hono";
import type { Form } from "./answer.js";
import { answer } from "./answer.js";
import { sequencesOf, type Service } from "./generation.js";
import { readCompletion, type CompletionRequest } from "./requests.js";
import type { Token, TokenLogprob } from "./sequence.js";

/** The prompts of a request as ids; an empty text begins with the token for that, where there is one. */
function promptsOf(prompt: CompletionRequest["prompt"], { tokenizer, model }: Service): number[][] {
  const encode = (text: string): number[] => {
    const ids = tokenizer.encode(text);
    const start = tokenizer.bosTokenId ?? model.config.bosTokenId;
    return ids.length > 0 || start === undefined ? ids : [start];
  };
  if (typeof prompt === "string") return [encode(prompt)];
  if (prompt.every((x) => typeof x === "number")) return [prompt];
  return (prompt as (string | number[])[]).map((one) => (typeof one === "string" ? encode(one) : one));
}

/** Equal texts of two ids keep the better one. */
function byText(top: readonly TokenLogprob[]): Record<string, number> {
  const out: Record<string, number> = {};
  for (const { token, logprob } of top) out[token] = Math.max(out[token] ?? -Infinity, logprob);
  return out;
}

const logprobsOf = (tokens: readonly Token[]): object => ({
  tokens: tokens.map(({ token }) => token),
  token_logprobs: tokens.map(({ logprob }) => logprob),
  top_logprobs: tokens.map(({ top }) => byText(top)),
  text_offset: tokens.map(({ offset }) => offset),
});

/** POST /v1/completions. @throws ApiError, RefusedError */
export function completions(c: Context, service: Service, body: unknown): Promise<Response> {
  const request = readCompletion(body);
  const prompts = promptsOf(request.prompt, service);
  const asked = request.logprobs ?? undefined;
  const wanted = { maxTokens: request.max_tokens ?? service.defaults.maxTokens, topLogprobs: asked };
  const sequences = sequencesOf(service, prompts, request, wanted, "prompt");
  const echoed = (index: number): string =>
    request.echo === true
      ? service.tokenizer.decode(sequences[index]!.options.prompt, { skipSpecialTokens: true })
      : "";
  const choice = (index: number, text: string, tokens: readonly Token[], finish: string | null): object => ({
    index,
    text,
    logprobs: asked === undefined ? null : logprobsOf(tokens),
    finish_reason: finish,
  });
  const form: Form = {
    prefix: "cmpl",
    object: "text_completion",
    chunkObject: "text_completion",
    whole: (index, { text, tokens, finish }) => choice(index, echoed(index) + text, tokens, finish),
    opening: (index) => (request.echo === true ? choice(index, echoed(index), [], null) : undefined),
    chunks: (index, { text, tokens, finish }) =>
      text === "" && tokens.length === 0 && finish === undefined
        ? []
        : [choice(index, text, tokens, finish ?? null)],
  };
  return answer(c, service, request, sequences, form);
}
