import {
  add,
  checkConfig,
  ConfigError,
  expectBoolean,
  expectInteger,
  logSoftmax,
  topk,
  type Recording,
  type Tensor,
} from "@x/kernels";
import { checkIds } from "./generate.js";
import {
  checkRules,
  Hypotheses,
  type Beam,
  type BeamRules,
  type Candidate,
  type Hypothesis,
} from "./hypotheses.js";
import type { Decoder } from "./model.js";
import type { DecodingState } from "./stack.js";

export interface BeamOptions extends BeamRules {
  readonly maxNewTokens: number;
  /** No token ends a text. */
  readonly ignoreEos?: boolean | undefined;
  /** Called between steps; true ends the search with what it has. */
  readonly cancelled?: (() => boolean) | undefined;
}

export interface BeamResult {
  /** As many as there are beams (fewer where there are not so many texts), the best first. */
  readonly hypotheses: readonly Hypothesis[];
  /** Of the best one, and of the time after its first token. */
  readonly tokensPerSecond: number;
}

const OPTIONS = [
  "beams",
  "lengthPenalty",
  "earlyStopping",
  "maxNewTokens",
  "ignoreEos",
  "cancelled",
] as const;
/** The sum of a row that holds no beam. */
const DEAD = -1e30;
/** Tokens of a prompt that go through the model at a time. */
const CHUNK = 64;

interface Best {
  readonly values: Tensor;
  readonly indices: Tensor;
}

/** The best ids after all beams, each with the sum of its text: logits [beams, vocab], sums [beams, 1]. */
function bestOf(logits: Tensor, sums: Tensor, count: number): Best {
  const all = add(logSoftmax(logits), sums).reshape([1, logits.size]);
  return topk(all, Math.min(count, logits.size));
}

async function read({ values, indices }: Best, vocabSize: number): Promise<Candidate[]> {
  const [sums, at] = await Promise.all([values.read(), indices.read()]);
  return Array.from(at, (index, i) => ({
    beam: Math.floor(index / vocabSize),
    id: index % vocabSize,
    sum: sums[i]!,
  })).filter(({ sum }) => sum > DEAD / 2);
}

/** Finds the best ids after beams. */
interface Stepper {
  best(beams: readonly Beam[]): Promise<Candidate[]>;
  dispose(): void;
}

/** What a stepper needs to know. */
interface Run {
  readonly model: Decoder;
  readonly prompt: readonly number[];
  /** Rows of the batch. */
  readonly rows: number;
  readonly count: number;
}

const sumsOf = (beams: readonly Beam[], rows: number): Float32Array =>
  Float32Array.from({ length: rows }, (_, row) => beams[row]?.sum ?? DEAD);

/** Runs all texts again at each step: for states whose rows cannot be exchanged, and rotations that change. */
class WholeTexts implements Stepper {
  readonly #run: Run;

  constructor(run: Run) {
    this.#run = run;
  }

  async best(beams: readonly Beam[]): Promise<Candidate[]> {
    const { model, prompt, rows, count } = this.#run;
    const { gpu, config } = model;
    const length = prompt.length + beams[0]!.ids.length;
    const texts = Array.from({ length: rows }, (_, row) => [...prompt, ...(beams[row] ?? beams[0]!).ids]);
    const best = gpu.scope(() => {
      const logits = model.forward(gpu.tensor(texts.flat(), [rows, length], "i32"), { lastOnly: true });
      const sums = gpu.tensor(sumsOf(beams, rows), [rows, 1]);
      return bestOf(logits.reshape([rows, config.vocabSize]), sums, count);
    });
    const candidates = await read(best, config.vocabSize);
    for (const tensor of [best.values, best.indices]) tensor.dispose();
    return candidates;
  }

  dispose(): void {
    // Nothing is held between steps.
  }
}

/** Keeps the caches of all beams, and exchanges their rows as beams end and fork. */
class CachedTexts implements Stepper {
  readonly #run: Run;
  readonly #state: DecodingState;
  /** The newest ids [rows, 1], their position [rows, 1], the texts' sums [rows, 1], the rows they go on from [rows]. */
  readonly #token: Tensor;
  readonly #position: Tensor;
  readonly #sums: Tensor;
  readonly #parents: Tensor;
  #exchange: Recording<undefined> | undefined;
  #step: Recording<Best> | undefined;

  constructor(run: Run, state: DecodingState) {
    const { rows, model } = run;
    const { gpu } = model;
    this.#run = run;
    this.#state = state;
    this.#token = gpu.keep(gpu.zeros([rows, 1], "i32"));
    this.#position = gpu.keep(gpu.zeros([rows, 1], "i32"));
    this.#sums = gpu.keep(gpu.zeros([rows, 1]));
    this.#parents = gpu.keep(gpu.zeros([rows], "i32"));
  }

  async best(beams: readonly Beam[]): Promise<Candidate[]> {
    const { rows, model } = this.#run;
    const { vocabSize } = model.config;
    this.#sums.write(sumsOf(beams, rows));
    const made = beams[0]!.ids.length;
    if (made === 0) {
      const best = this.#first();
      const candidates = await read(best, vocabSize);
      for (const tensor of [best.values, best.indices]) tensor.dispose();
      return candidates;
    }
    const each = (of: (beam: Beam, row: number) => number): Int32Array =>
      Int32Array.from({ length: rows }, (_, row) => of(beams[row] ?? beams[0]!, row));
    this.#token.write(each(({ ids }) => ids.at(-1)!));
    this.#position.write(each(() => this.#run.prompt.length + made - 1));
    const parents = each(({ parent }) => parent);
    if (parents.some((parent, row) => row < beams.length && parent !== row)) {
      this.#parents.write(parents);
      this.#reorder();
    }
    return read(this.#next(), vocabSize);
  }

  /** The prompt, in pieces. */
  #first(): Best {
    const { model, prompt, rows, count } = this.#run;
    const { gpu, config } = model;
    const { maxChunk } = this.#state;
    for (let start = 0; ; start += maxChunk) {
      const chunk = prompt.slice(start, start + maxChunk);
      const batch = (list: readonly number[]): Tensor =>
        gpu.tensor(Array.from({ length: rows }, () => list).flat(), [rows, list.length], "i32");
      const hidden = gpu.scope(() => {
        const positionIds = batch(chunk.map((_, i) => start + i));
        const context = { positionIds, textLength: prompt.length, lastOnly: true };
        return model.hidden(batch(chunk), context, this.#state);
      });
      const best =
        start + maxChunk < prompt.length
          ? undefined
          : gpu.scope(() => bestOf(model.head(hidden).reshape([rows, config.vocabSize]), this.#sums, count));
      hidden.dispose();
      if (best) return best;
    }
  }

  #reorder(): void {
    if (this.#exchange) this.#exchange.replay();
    else
      this.#exchange = this.#run.model.gpu.record(() => {
        for (const layer of this.#state.layers) layer.reorder!(this.#parents);
        return undefined;
      });
  }

  #next(): Best {
    const { model, prompt, rows, count } = this.#run;
    if (this.#step) this.#step.replay();
    else
      this.#step = model.gpu.record(() => {
        const context = { positionIds: this.#position, textLength: prompt.length };
        const logits = model.forward(this.#token, context, this.#state);
        return bestOf(logits.reshape([rows, model.config.vocabSize]), this.#sums, count);
      });
    return this.#step.outputs;
  }

  dispose(): void {
    this.#exchange?.dispose();
    this.#step?.dispose();
    for (const tensor of [this.#token, this.#position, this.#sums, this.#parents]) tensor.dispose();
    this.#state.dispose();
  }
}

function stepperOf(run: Run, maxLength: number): Stepper {
  const { model, prompt, rows } = run;
  if (model.changes(prompt.length, maxLength)) return new WholeTexts(run);
  const maxChunk = Math.min(CHUNK, prompt.length);
  const state = model.createState({ batch: rows, maxLength, maxChunk });
  if (state.layers.every((layer) => layer.reorder && layer.countsOnHost !== true))
    return new CachedTexts(run, state);
  state.dispose();
  return new WholeTexts(run);
}

/** What `beamSearch` asks of its arguments, before any work. @throws ConfigError */
function checkBeams(model: Decoder, prompt: readonly number[], options: BeamOptions): void {
  const who = "beamSearch";
  checkConfig(who, options, OPTIONS);
  checkIds(who, model, prompt);
  checkRules(who, options);
  expectInteger(who, "maxNewTokens", options.maxNewTokens, 0, 2 ** 31 - 1 - prompt.length);
  expectBoolean(who, "ignoreEos", options.ignoreEos ?? false);
  if (options.cancelled !== undefined && typeof options.cancelled !== "function")
    throw new ConfigError(who, "cancelled must be a function");
}

/**
 * The texts after a prompt with the highest sum of log-probabilities / length^lengthPenalty that are found when only the
 * best `beams` texts are followed at each step; one beam is the greedy text. A decoder that attends to an encoder's
 * output has one row of it for each beam.
 *
 * Caches of keys and values are exchanged between beams; a model with other states runs its texts again at each step.
 * Sutskever et al. 2014, arXiv:1409.3215, section 3.2; arXiv:1609.08144, section 7 (length penalty; here as Hugging Face
 * has it).
 *
 * @throws ConfigError for ids outside the vocabulary, an empty prompt and options out of range
 */
export async function beamSearch(
  model: Decoder,
  prompt: readonly number[],
  options: BeamOptions,
): Promise<BeamResult> {
  checkBeams(model, prompt, options);
  const { maxNewTokens, beams: rows, ignoreEos = false, cancelled = () => false } = options;
  const empty: Beam = { ids: [], sum: 0, parent: 0 };
  if (maxNewTokens === 0) return { hypotheses: [{ ids: [], score: 0 }], tokensPerSecond: 0 };
  const found = new Hypotheses(options, ignoreEos ? [] : model.config.eosTokenIds, maxNewTokens);
  const run = { model, prompt, rows, count: found.candidates };
  const stepper = stepperOf(run, prompt.length + maxNewTokens);
  try {
    let beams: readonly Beam[] = [empty];
    let started = 0;
    for (let step = 1; ; step++) {
      beams = found.take(beams, await stepper.best(beams));
      if (step === 1) started = performance.now();
      if (found.done || beams.length === 0 || step === maxNewTokens || cancelled()) {
        const hypotheses = found.finish(beams);
        const seconds = (performance.now() - started) / 1000;
        return { hypotheses, tokensPerSecond: step > 1 && seconds > 0 ? (step - 1) / seconds : 0 };
      }
    }
  } finally {
    stepper.dispose();
  }
}
