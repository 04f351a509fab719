import type { StreamDecoder, Tokenizer } from "@x/tokenizer";

/** Length of the longest end of `text` that could be the start of a stop string. */
function pending(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let n = Math.min(stop.length - 1, text.length); n > longest; n--) {
      if (text.endsWith(stop.slice(0, n))) longest = n;
    }
  }
  return longest;
}

/** A decoder that goes on after a prompt, and at least `reach` characters of the prompt's end if it has them. */
function afterPrompt(
  tokenizer: Tokenizer,
  prompt: readonly number[],
  reach: number,
): { decoder: StreamDecoder; text: string } {
  // Bytes and special tokens say less than a character each: more tokens are taken until the text is long enough.
  for (let count = reach; ; count = 4 * count) {
    const cut = Math.max(0, prompt.length - count);
    const decoder = tokenizer.decoder({ skipSpecialTokens: true, after: prompt.slice(0, cut) });
    const text = prompt
      .slice(cut)
      .map((id) => decoder.push(id))
      .join("");
    if (text.length >= reach || cut === 0) return { decoder, text };
  }
}

/**
 * The text that new ids add to a prompt's, as it may be shown: whole characters, and nothing that could still turn out
 * to be the start of a stop string. The prompt's ids go through the same decoder, since what an id says depends on
 * those before it: a tokenizer that puts a space before each word drops it at the start of a text only.
 *
 * A stop string may begin in the prompt; it ends in the continuation.
 */
export class Continuation {
  readonly #decoder: StreamDecoder;
  readonly #stop: readonly string[];
  /** Characters before the continuation that a stop string can begin in. */
  readonly #before: number;
  /** The end of the prompt, then the continuation. */
  #text: string;
  #shown: number;
  #stopped = false;

  constructor(tokenizer: Tokenizer, prompt: readonly number[], stop: readonly string[] = []) {
    this.#stop = stop;
    const reach = Math.max(0, ...stop.map((s) => s.length - 1));
    const { decoder, text } = afterPrompt(tokenizer, prompt, reach);
    this.#decoder = decoder;
    this.#text = reach === 0 ? "" : text.slice(-reach);
    this.#before = this.#shown = this.#text.length;
  }

  /** A stop string has come; what follows is not part of the text. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** All of the continuation so far. */
  get text(): string {
    return this.#text.slice(this.#before);
  }

  /** Take an id; returns what can be shown then. */
  push(id: number): string {
    this.#add(this.#decoder.push(id));
    return this.#show(
      this.#stopped ? this.#text.length : this.#text.length - pending(this.#text, this.#stop),
    );
  }

  /** Nothing more comes; returns the rest. */
  end(): string {
    if (!this.#stopped) this.#add(this.#decoder.end());
    return this.#show(this.#text.length);
  }

  /** Text that ends before the first stop string, which needs a character of what is added. */
  #add(more: string): void {
    const old = this.#text.length;
    this.#text += more;
    const cuts = this.#stop
      .map((s) => this.#text.indexOf(s, Math.max(0, old - s.length + 1)))
      .filter((at) => at >= 0);
    if (cuts.length === 0) return;
    this.#stopped = true;
    this.#text = this.#text.slice(0, Math.max(this.#before, Math.min(...cuts)));
  }

  #show(end: number): string {
    const from = this.#shown;
    this.#shown = Math.max(from, end);
    return this.#text.slice(from, this.#shown);
  }
}
