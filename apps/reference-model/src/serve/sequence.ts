import type { Tokenizer } from "@x/tokenizer";
import { HostRandom } from "../corpus/random.js";
import { Continuation } from "../model/continuation.js";
import { draw, type Drawn, type DrawOptions } from "./draw.js";

export interface SequenceOptions extends DrawOptions {
  readonly prompt: readonly number[];
  readonly maxTokens: number;
  readonly stop: readonly string[];
  readonly seed: number;
  /** Number of the choice: equal seeds give the choices of a request texts of their own. */
  readonly choice: number;
  readonly eosTokenIds: readonly number[];
}

/** An id as text, with the logarithm of its probability. */
export interface TokenLogprob {
  readonly token: string;
  readonly logprob: number;
}

/** A token of the continuation, where logprobs are asked for. */
export interface Token extends TokenLogprob {
  /** Characters of the continuation before it. */
  readonly offset: number;
  readonly top: readonly TokenLogprob[];
}

export type FinishReason = "stop" | "length";

/** What a step adds to a continuation. */
export interface Piece {
  readonly text: string;
  readonly tokens: readonly Token[];
  readonly finish: FinishReason | undefined;
}

/** One continuation of one prompt: draws from logits, and gives text as soon as it is final. */
export class Sequence {
  readonly options: SequenceOptions;
  /** Prompt and continuation. */
  readonly text: number[];
  /** Tokens of the prompt that a row held already. */
  reused = 0;
  cancelled = false;
  readonly #tokenizer: Tokenizer;
  readonly #continuation: Continuation;
  readonly #random: HostRandom;
  readonly #counts = new Map<number, number>();
  /** Tokens whose text has not been shown. */
  #pending: Token[] = [];
  #shown = 0;

  constructor(tokenizer: Tokenizer, options: SequenceOptions) {
    this.options = options;
    this.text = [...options.prompt];
    this.#tokenizer = tokenizer;
    this.#continuation = new Continuation(tokenizer, options.prompt, options.stop);
    this.#random = new HostRandom(options.seed, options.choice);
  }

  /** Ids drawn so far, an end of text included. */
  get generated(): number {
    return this.text.length - this.options.prompt.length;
  }

  /** Draws the next id from logits [vocab]. */
  accept(logits: Float32Array): Piece {
    const drawn = draw(logits, this.options, this.#counts, this.#random);
    const { id } = drawn;
    const before = this.text.at(-1)!;
    this.text.push(id);
    this.#counts.set(id, (this.#counts.get(id) ?? 0) + 1);
    if (this.options.eosTokenIds.includes(id)) return this.#end("", "stop");
    const offset = this.#continuation.text.length;
    if (drawn.logprob !== undefined) this.#pending.push(this.#token(drawn, before, offset));
    const more = this.#continuation.push(id);
    if (this.#continuation.stopped) return this.#end(more, "stop");
    if (this.generated === this.options.maxTokens) return this.#end(more, "length");
    return this.#piece(more, undefined);
  }

  #end(more: string, finish: FinishReason): Piece {
    return this.#piece(more + this.#continuation.end(), finish);
  }

  /** A token goes out with its first character; tokens that a stop string has cut away do not. */
  #piece(text: string, finish: FinishReason | undefined): Piece {
    this.#shown += text.length;
    const whole = finish !== undefined && !this.#continuation.stopped;
    const out = this.#pending.filter(({ offset }) => whole || offset < this.#shown);
    this.#pending = this.#pending.slice(out.length);
    return { text, tokens: out, finish };
  }

  #token({ id, logprob, top }: Drawn, before: number, offset: number): Token {
    const text = (one: number): string => this.#tokenizer.decode([one], { after: [before] });
    return {
      token: text(id),
      logprob: logprob!,
      offset,
      top: top.map((other) => ({ token: text(other.id), logprob: other.logprob })),
    };
  }
}
