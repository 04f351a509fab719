import * as z from "zod";
import { ApiError } from "./errors.js";

/** A parameter that a request may leave out or set to null. */
const optional = <T extends z.ZodType>(schema: T): z.ZodOptional<z.ZodNullable<T>> => schema.nullish();

const count = (max = Number.MAX_SAFE_INTEGER): z.ZodInt => z.int().min(1).max(max);
const id = z.int().min(0);
const penalty = optional(z.number().min(-2).max(2));

/** What both kinds of completion have. */
const COMMON = {
  model: optional(z.string()),
  stream: optional(z.boolean()),
  stream_options: optional(z.strictObject({ include_usage: optional(z.boolean()) })),
  max_tokens: optional(count()),
  temperature: optional(z.number().min(0).max(2)),
  top_p: optional(z.number().min(0).max(1)),
  n: optional(count(128)),
  stop: optional(
    z.union([z.string().min(1), z.array(z.string().min(1)).max(4)], {
      error: "must be a string or a list of up to 4 strings, none of them empty",
    }),
  ),
  seed: optional(z.int()),
  frequency_penalty: penalty,
  presence_penalty: penalty,
  logit_bias: optional(z.record(z.string().regex(/^\d+$/, "must be an id"), z.number().min(-100).max(100))),
  /** Says who asks; the answer does not depend on it. */
  user: optional(z.string()),
};

const completion = z.strictObject({
  ...COMMON,
  prompt: z.union(
    [z.string(), z.array(z.string()).min(1), z.array(id).min(1), z.array(z.array(id).min(1)).min(1)],
    { error: "must be a string, a list of strings, a list of ids, or a list of lists of ids" },
  ),
  echo: optional(z.boolean()),
  logprobs: optional(z.int().min(0).max(5)),
});

const message = z.strictObject({
  role: z.enum(["system", "developer", "user", "assistant"]),
  content: z.union(
    [z.string(), z.array(z.strictObject({ type: z.literal("text"), text: z.string() })).min(1)],
    {
      error: 'must be a string or a list of parts {"type": "text", "text": ".."}',
    },
  ),
  name: optional(z.string()),
});

const chat = z.strictObject({
  ...COMMON,
  messages: z.array(message).min(1),
  max_completion_tokens: optional(count()),
  logprobs: optional(z.boolean()),
  top_logprobs: optional(z.int().min(0).max(20)),
  // What clients send by habit is taken where it asks for what is done anyway.
  response_format: optional(z.strictObject({ type: z.literal("text") })),
  tools: optional(z.array(z.unknown()).max(0)),
  tool_choice: optional(z.literal("none")),
  modalities: optional(z.tuple([z.literal("text")])),
  store: optional(z.literal(false)),
});

export type CommonRequest = z.infer<z.ZodObject<typeof COMMON>>;
export type CompletionRequest = z.infer<typeof completion>;
export type ChatRequest = z.infer<typeof chat>;

/** Reads a body by a schema; the first thing that is wrong is told. @throws ApiError */
function read<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const path = issue.path.map(String);
  if (issue.code === "unrecognized_keys") {
    const param = [...path, issue.keys[0]!].join(".");
    throw new ApiError(400, `${param}: this server does not have the parameter, and does not ignore it`, {
      param,
      code: "unsupported_parameter",
    });
  }
  const param = path.join(".");
  throw new ApiError(400, `${param === "" ? "the body" : param}: ${issue.message}`, {
    ...(param === "" ? {} : { param }),
    code: "invalid_value",
  });
}

function checkCommon(request: CommonRequest): void {
  if (request.stream_options && request.stream !== true)
    throw new ApiError(400, "stream_options is given without stream: true", {
      param: "stream_options",
      code: "invalid_value",
    });
}

/** The body of /v1/completions. @throws ApiError */
export function readCompletion(body: unknown): CompletionRequest {
  const request = read(completion, body);
  checkCommon(request);
  if (request.echo && request.logprobs != null)
    throw new ApiError(400, "echo and logprobs are both given; logprobs of a prompt are not supported", {
      param: "echo",
      code: "unsupported_value",
    });
  return request;
}

/** The body of /v1/chat/completions. @throws ApiError */
export function readChat(body: unknown): ChatRequest {
  const request = read(chat, body);
  checkCommon(request);
  const { max_tokens: old, max_completion_tokens: now } = request;
  if (old != null && now != null)
    throw new ApiError(
      400,
      "max_tokens and max_completion_tokens are both given; the first is the old name",
      {
        param: "max_tokens",
        code: "invalid_value",
      },
    );
  if (request.top_logprobs != null && request.logprobs !== true)
    throw new ApiError(400, "top_logprobs is given without logprobs: true", {
      param: "top_logprobs",
      code: "invalid_value",
    });
  return request;
}
