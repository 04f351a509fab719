import { randomUUID } from "node:crypto";
import type { Context } from "hono";
import { streamSSE } from "hono/streaming";
import { apiErrorOf } from "./errors.js";
import { run, usageOf, type Service } from "./generation.js";
import type { CommonRequest } from "./requests.js";
import type { FinishReason, Piece, Sequence, Token } from "./sequence.js";

/** All of a choice. */
export interface Whole {
  readonly text: string;
  readonly tokens: readonly Token[];
  readonly finish: FinishReason;
}

/** How one kind of completion writes its choices. */
export interface Form {
  /** What an id begins with. */
  readonly prefix: string;
  readonly object: string;
  readonly chunkObject: string;
  readonly whole: (index: number, whole: Whole) => object;
  /** What comes before the first piece of a choice. */
  readonly opening: (index: number) => object | undefined;
  readonly chunks: (index: number, piece: Piece) => readonly object[];
}

/** The pieces of each choice as one. */
class Collected {
  #text = "";
  readonly #tokens: Token[] = [];
  #finish: FinishReason | undefined;

  add({ text, tokens, finish }: Piece): void {
    this.#text += text;
    this.#tokens.push(...tokens);
    this.#finish = finish;
  }

  get whole(): Whole {
    return { text: this.#text, tokens: this.#tokens, finish: this.#finish! };
  }
}

/**
 * Answer a request with its choices: as one body, or as server-sent events where it asks for a stream.
 *
 * @throws RefusedError
 */
export async function answer(
  c: Context,
  service: Service,
  request: CommonRequest,
  sequences: readonly Sequence[],
  form: Form,
): Promise<Response> {
  const n = request.n ?? 1;
  const head = {
    id: `${form.prefix}-${randomUUID().replaceAll("-", "")}`,
    created: Math.floor(Date.now() / 1000),
    model: service.name,
  };
  const pieces = run(service, sequences, c.req.raw.signal);
  if (request.stream !== true) {
    const choices = sequences.map(() => new Collected());
    for await (const { index, piece } of pieces) choices[index]!.add(piece);
    return c.json({
      ...head,
      object: form.object,
      choices: choices.map(({ whole }, index) => form.whole(index, whole)),
      usage: usageOf(sequences, n),
    });
  }
  const counted = request.stream_options?.include_usage === true;
  return streamSSE(c, async (stream) => {
    const reader = pieces.getReader();
    stream.onAbort(() => reader.cancel());
    const send = (data: object): Promise<void> => stream.writeSSE({ data: JSON.stringify(data) });
    const chunk = (choices: readonly object[], usage: object | null = null): Promise<void> =>
      send({ ...head, object: form.chunkObject, choices, ...(counted ? { usage } : {}) });
    try {
      for (let index = 0; index < sequences.length; index++) {
        const opening = form.opening(index);
        if (opening) await chunk([opening]);
      }
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        for (const choice of form.chunks(value.index, value.piece)) await chunk([choice]);
      }
      if (stream.aborted) return;
      if (counted) await chunk([], usageOf(sequences, n));
      await stream.writeSSE({ data: "[DONE]" });
    } catch (error) {
      if (stream.aborted || c.req.raw.signal.aborted) return;
      const known = apiErrorOf(error);
      if (known.status === 500) service.onFault(error);
      // The status has been sent; the client learns of the error as an event.
      await send(known.body);
    }
  });
}
