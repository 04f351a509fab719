import type { Context } from "hono";
import type { ChatMessage } from "../chat/template.js";
import { answer, type Form } from "./answer.js";
import { ApiError } from "./errors.js";
import { sequencesOf, type Service } from "./generation.js";
import { readChat, type ChatRequest } from "./requests.js";
import type { Token, TokenLogprob } from "./sequence.js";

const plain = ({ role, content, name }: ChatRequest["messages"][number]): ChatMessage => ({
  role,
  content: typeof content === "string" ? content : content.map(({ text }) => text).join(""),
  ...(name == null ? {} : { name }),
});

/** The bytes of a token; null where it is a part of a character, whose bytes its text does not say. */
const withBytes = ({ token, logprob }: TokenLogprob): object => ({
  token,
  logprob,
  bytes: token.includes("\uFFFD") ? null : [...new TextEncoder().encode(token)],
});

const logprobsOf = (tokens: readonly Token[]): object => ({
  content: tokens.map((token) => ({ ...withBytes(token), top_logprobs: token.top.map(withBytes) })),
  refusal: null,
});

/** The conversation as ids: the template writes the special tokens itself. @throws ApiError */
function promptOf(messages: readonly ChatMessage[], { chat, tokenizer, name }: Service): number[] {
  if (!chat)
    throw new ApiError(400, `messages: the model ${name} has no chat template; /v1/completions takes texts`, {
      param: "messages",
      code: "no_chat_template",
    });
  let text: string;
  try {
    text = chat.render(messages);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ApiError(400, `messages: ${reason}`, {
      param: "messages",
      code: "invalid_value",
    });
  }
  return tokenizer.encode(text, { addSpecialTokens: false });
}

/** POST /v1/chat/completions. @throws ApiError, RefusedError */
export function chatCompletions(c: Context, service: Service, body: unknown): Promise<Response> {
  const request = readChat(body);
  const prompt = promptOf(request.messages.map(plain), service);
  const asked = request.logprobs === true;
  const wanted = {
    maxTokens: request.max_completion_tokens ?? request.max_tokens ?? undefined,
    topLogprobs: asked ? (request.top_logprobs ?? 0) : undefined,
  };
  const sequences = sequencesOf(service, [prompt], request, wanted, "messages");
  const said = (tokens: readonly Token[]): object | null => (asked ? logprobsOf(tokens) : null);
  const chunk = (index: number, delta: object, tokens: readonly Token[], finish: string | null): object => ({
    index,
    delta,
    logprobs: tokens.length > 0 ? said(tokens) : null,
    finish_reason: finish,
  });
  const form: Form = {
    prefix: "chatcmpl",
    object: "chat.completion",
    chunkObject: "chat.completion.chunk",
    whole: (index, { text, tokens, finish }) => ({
      index,
      message: { role: "assistant", content: text, refusal: null },
      logprobs: said(tokens),
      finish_reason: finish,
    }),
    opening: (index) => chunk(index, { role: "assistant", content: "" }, [], null),
    chunks: (index, { text, tokens, finish }) => [
      ...(text !== "" || tokens.length > 0 ? [chunk(index, { content: text }, tokens, null)] : []),
      ...(finish === undefined ? [] : [chunk(index, {}, [], finish)]),
    ],
  };
  return answer(c, service, request, sequences, form);
}
