import {
  checkConfig,
  ConfigError,
  defineKernel,
  expectInteger,
  expectNumber,
  repetitionPenalty,
  sample,
  type Kernel,
  type Recording,
  type SampleOptions,
  type Tensor,
} from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import { Continuation } from "./continuation.js";
import type { Decoder } from "./model.js";
import type { DecodingState } from "./stack.js";

export interface GenerateOptions extends Pick<SampleOptions, "temperature" | "topK" | "topP" | "minP"> {
  readonly maxNewTokens: number;
  readonly seed?: number;
  /** Above 1: tokens that occurred become less likely. */
  readonly repetitionPenalty?: number;
  /** Go on after the end-of-text token. */
  readonly ignoreEos?: boolean;
  /** Ends the text before any of these. */
  readonly stop?: readonly string[];
  /** Called between tokens; true ends the run. */
  readonly cancelled?: () => boolean;
}

export interface Generated {
  readonly ids: number[];
  readonly text: string;
  /** After the first token. */
  readonly tokensPerSecond: number;
  readonly reason: "length" | "eos" | "stop" | "cancelled";
}

/** Puts a new token where the next step reads it, and counts. */
const advanceKernel: Kernel<undefined> = defineKernel({
  name: "advanceDecoding",
  bindings: {
    next: "read i32",
    token: "read_write i32",
    position: "read_write i32",
    step: "read_write u32",
    history: "read_write i32",
  },
  params: { limit: "u32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(1)
fn main() {
  let id = next[0];
  token[0] = id;
  position[0] += 1;
  step[0] += 1u;
  history[min(u32(position[0]), params.limit - 1u)] = id;
}`,
});

/** Tokens of a prompt that go through the model at a time. */
const CHUNK = 64;

const OPTIONS = [
  "temperature",
  "topK",
  "topP",
  "minP",
  "maxNewTokens",
  "seed",
  "repetitionPenalty",
  "ignoreEos",
  "stop",
  "cancelled",
] as const;

/** @throws ConfigError for a prompt that is empty or has ids outside the vocabulary */
export function checkIds(
  who: string,
  { config: { vocabSize } }: Pick<Decoder, "config">,
  prompt: readonly number[],
): void {
  if (prompt.length === 0) throw new ConfigError(who, "the prompt has no tokens");
  const bad = prompt.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (bad !== undefined)
    throw new ConfigError(who, `id ${String(bad)} is outside the vocabulary of ${vocabSize}`);
}

/**
 * What `generate` asks of its arguments, before any work.
 *
 * @throws ConfigError
 */
export function checkGeneration(
  model: Decoder,
  prompt: readonly number[],
  options: GenerateOptions,
  tokenizer?: Tokenizer,
): void {
  const who = "generate";
  checkConfig(who, options, OPTIONS);
  checkIds(who, model, prompt);
  const { temperature = 1, topK = 0, topP = 1, minP = 0, repetitionPenalty: penalty = 1 } = options;
  expectInteger(who, "maxNewTokens", options.maxNewTokens, 0, 2 ** 31 - 1 - prompt.length);
  expectNumber(who, "temperature", temperature, 0);
  expectInteger(who, "topK", topK, 0);
  expectNumber(who, "topP", topP, 0, 1);
  expectNumber(who, "minP", minP, 0, 1);
  expectNumber(who, "repetitionPenalty", penalty, Number.MIN_VALUE);
  expectInteger(who, "seed", options.seed ?? 0, 0);
  if (options.stop?.some((s) => s === ""))
    throw new ConfigError(who, "stop has an empty string, which every text contains");
  if (options.stop && options.stop.length > 0 && !tokenizer)
    throw new ConfigError(who, "stop is given without a tokenizer, which makes text of ids");
}

/** Ids one after another from a model and a state of fixed size; sampling happens on the device. */
class Decoding {
  readonly #model: Decoder;
  readonly #state: DecodingState;
  readonly #options: GenerateOptions;
  readonly #held: Tensor[] = [];
  /** The newest id [1, 1], its position [1, 1], the number of steps [1], and all ids [maxLength], -1 where none is yet. */
  readonly #token: Tensor;
  readonly #position: Tensor;
  readonly #count: Tensor;
  readonly #history: Tensor;
  #recording: Recording<Tensor> | undefined;

  constructor(model: Decoder, prompt: readonly number[], options: GenerateOptions) {
    const { gpu } = model;
    this.#model = model;
    this.#options = options;
    const maxLength = prompt.length + options.maxNewTokens;
    const reruns = model.changes(prompt.length, maxLength);
    this.#state = model.createState({
      maxLength,
      maxChunk: Math.min(CHUNK, reruns ? maxLength : prompt.length),
    });
    const keep = (t: Tensor): Tensor => {
      this.#held.push(gpu.keep(t));
      return t;
    };
    this.#token = keep(gpu.tensor([prompt.at(-1)!], [1, 1], "i32"));
    this.#position = keep(gpu.tensor([prompt.length - 1], [1, 1], "i32"));
    this.#count = keep(gpu.tensor([0], [1], "u32"));
    const history = new Int32Array(maxLength).fill(-1);
    history.set(prompt);
    this.#history = keep(gpu.tensor(history, [maxLength], "i32"));
  }

  /** Draw the next id from the logits of the last position, and put it where the next step reads it. */
  #choose(logits: Tensor): Tensor {
    const { config, gpu } = this.#model;
    const {
      temperature = 1,
      topK = 0,
      topP = 1,
      minP = 0,
      seed = 0,
      repetitionPenalty: penalty = 1,
    } = this.#options;
    const last = logits.reshape([config.vocabSize]);
    const penalized = penalty === 1 ? last : repetitionPenalty(last, this.#history, penalty);
    const next = sample(penalized, { temperature, topK, topP, minP, seed, step: this.#count });
    gpu.run(advanceKernel, {
      bindings: {
        next,
        token: this.#token,
        position: this.#position,
        step: this.#count,
        history: this.#history,
      },
      params: { limit: this.#state.maxLength },
    });
    return next;
  }

  /** Run a whole text through the model, in pieces, and draw the id after it. */
  text(ids: readonly number[]): void {
    const { gpu } = this.#model;
    this.#recording?.dispose();
    this.#recording = undefined;
    this.#state.clear();
    const { maxChunk } = this.#state;
    for (let start = 0; start < ids.length; start += maxChunk) {
      const chunk = ids.slice(start, start + maxChunk);
      gpu.scope(() => {
        const at = Int32Array.from(chunk, (_, i) => start + i);
        const positionIds = gpu.tensor(at, [1, chunk.length], "i32");
        const hidden = this.#model.hidden(
          gpu.tensor(chunk, [1, chunk.length], "i32"),
          { positionIds, textLength: ids.length, lastOnly: true },
          this.#state,
        );
        if (start + chunk.length === ids.length) this.#choose(this.#model.head(hidden));
      });
    }
  }

  /** Whether the state of the text so far serves a text of `length` tokens. */
  serves(length: number): boolean {
    return !this.#model.changes(this.#state.textLength!, length);
  }

  /** The newest id goes through the model, as the last of a text of `length` tokens, and the next one is drawn. */
  step(length: number): void {
    const { gpu } = this.#model;
    const decode = (): Tensor => {
      const context = { positionIds: this.#position, textLength: length };
      return this.#choose(this.#model.forward(this.#token, context, this.#state));
    };
    if (this.#state.layers.some((layer) => layer.countsOnHost === true)) gpu.scope(decode);
    else if (this.#recording) this.#recording.replay();
    else this.#recording = gpu.record(decode);
    gpu.flush();
  }

  /** The newest id. */
  async read(): Promise<number> {
    return (await this.#token.read())[0]!;
  }

  dispose(): void {
    this.#recording?.dispose();
    for (const t of this.#held) t.dispose();
    this.#state.dispose();
  }
}

/**
 * Continue a list of ids. Sampling happens on the device; of each step only the id comes back. The step is recorded
 * once and replayed, and the caches are of fixed size.
 *
 * Each id is drawn from the logits that a whole pass over the text before it gives: where the rotations change with the
 * length (longrope, dynamicNtk), the text so far is run again when they do.
 *
 * @throws ConfigError for ids outside the vocabulary, an empty prompt and options out of range.
 */
export async function generate(
  model: Decoder,
  prompt: readonly number[],
  options: GenerateOptions,
  tokenizer?: Tokenizer,
  onText: (text: string) => void = () => undefined,
): Promise<Generated> {
  checkGeneration(model, prompt, options, tokenizer);
  const { maxNewTokens, ignoreEos = false, cancelled = () => false } = options;
  const ids: number[] = [];
  if (maxNewTokens === 0) return { ids, text: "", tokensPerSecond: 0, reason: "length" };
  const text = tokenizer && new Continuation(tokenizer, prompt, options.stop);
  const show = (more: string | undefined): void => {
    if (more) onText(more);
  };
  const decoding = new Decoding(model, prompt, options);
  try {
    decoding.text(prompt);
    let started = 0;
    for (;;) {
      // One step runs ahead of what has been read, so that the device works while an id is on its way; a text that ends
      // at it leaves that step's result alone.
      const reading = decoding.read();
      const length = prompt.length + ids.length + 1;
      const more = ids.length + 1 < maxNewTokens;
      const ahead = more && decoding.serves(length);
      if (ahead) decoding.step(length);
      const id = await reading;
      if (ids.length === 0) started = performance.now();
      const eos = !ignoreEos && model.config.eosTokenIds.includes(id);
      ids.push(id);
      if (!eos) show(text?.push(id));
      const reason = eos
        ? "eos"
        : text?.stopped
          ? "stop"
          : !more
            ? "length"
            : cancelled()
              ? "cancelled"
              : undefined;
      if (reason !== undefined) {
        show(text?.end());
        const seconds = (performance.now() - started) / 1000;
        const tokensPerSecond = ids.length > 1 && seconds > 0 ? (ids.length - 1) / seconds : 0;
        return { ids, text: text?.text ?? "", tokensPerSecond, reason };
      }
      if (!ahead) decoding.text([...prompt, ...ids]);
    }
  } finally {
    decoding.dispose();
  }
}
