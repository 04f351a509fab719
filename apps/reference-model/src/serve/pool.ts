import type { Recording, Tensor } from "@x/kernels";
import type { Decoder, DecodingState } from "../model/model.js";
import { anyPieces, shortestWindow, whyOneRow } from "./rows.js";

/** Tokens of each row's prompt that go through the model in one step. */
const CHUNK = 32;
/** The same where there is one row: the pieces of `generate`, since some models depend on them. */
const CHUNK_ALONE = 64;

export interface PoolOptions {
  /** Rows at most; a model whose rows depend on each other has one. */
  readonly rows: number;
  /** Tokens of a row: prompt and continuation. */
  readonly length: number;
}

/** A row that holds the beginning of a text. */
export interface TakenRow {
  readonly row: number;
  /** Tokens of the prompt whose keys and values the row has already. */
  readonly reused: number;
}

/** A text that a row is to hold. */
export interface RowText {
  readonly row: number;
  readonly text: readonly number[];
}

/** The inputs of a step of `width` tokens per row, and the step as a recording once it has run. */
interface Step {
  readonly ids: Tensor;
  readonly positions: Tensor;
  recording: Recording<unknown> | undefined;
}

interface Row {
  /** Ids whose keys and values the row holds. */
  held: number[];
  free: boolean;
  /** When the row was last given back. */
  freed: number;
}

const commonPrefix = (a: readonly number[], b: readonly number[]): number => {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
};

/**
 * The caches of several texts as rows of one decoding state. A row that is given back keeps its tokens: a text that
 * begins with them runs only the rest.
 *
 * A row needs no clearing. Its slots are found by position and a query sees positions up to its own, all of which its
 * own text has written; what an older text left beyond them stays out of sight. A row that has no token in a step has
 * position -1 there, which stores nothing.
 */
export class CachePool {
  readonly rows: number;
  readonly length: number;
  /** Why there is one row; undefined where rows are independent. */
  readonly oneRow: string | undefined;
  readonly #model: Decoder;
  readonly #state: DecodingState;
  readonly #table: readonly Row[];
  readonly #steps = new Map<number, Step>();
  /** Logits of each row's last token, [rows, vocab]. */
  readonly #logits: Tensor;
  /** Longest text of a row that no ring has begun to overwrite. */
  readonly #intact: number;
  readonly #reuses: boolean;
  #clock = 0;

  constructor(model: Decoder, { rows, length }: PoolOptions) {
    this.#model = model;
    this.length = length;
    this.oneRow = whyOneRow({ config: model.config, changes: (a, b) => model.changes(a, b) }, length);
    this.rows = this.oneRow === undefined ? rows : 1;
    const { gpu, config } = model;
    this.#state = model.createState({
      batch: this.rows,
      maxLength: length,
      maxChunk: Math.min(this.oneRow === undefined ? CHUNK : CHUNK_ALONE, length),
    });
    this.#logits = gpu.keep(gpu.zeros([this.rows, config.vocabSize]));
    this.#table = Array.from({ length: this.rows }, () => ({ held: [], free: true, freed: 0 }));
    this.#intact = this.oneRow === undefined ? shortestWindow(config) - 1 + this.#state.maxChunk : 0;
    this.#reuses = anyPieces(config);
    // Caches that count their tokens treat the first ones otherwise (latent attention): a step without any tokens ends
    // the counting, so that a recorded step serves all texts.
    if (this.oneRow === undefined) this.#advanceRows([]);
  }

  /** Rows that a text is in. */
  get taken(): number {
    return this.#table.filter(({ free }) => !free).length;
  }

  /** Bytes on the GPU that one token of one row takes. */
  get bytesPerToken(): number {
    return this.#state.bytesPerToken;
  }

  /** How much of a prompt a row can keep: less than all, since the last token's logits are needed. */
  #reusable({ held }: Row, prompt: readonly number[]): number {
    if (!this.#reuses) return 0;
    const common = Math.min(commonPrefix(held, prompt), prompt.length - 1);
    // A ring that has been overwritten, and a recurrent state, can go on but not back.
    return held.length <= this.#intact || common === held.length ? common : 0;
  }

  /** The free row that holds most of the prompt, and among equals the one that has been free longest. */
  take(prompt: readonly number[]): TakenRow | undefined {
    let best: TakenRow | undefined;
    for (const [row, entry] of this.#table.entries()) {
      if (!entry.free) continue;
      const reused = this.#reusable(entry, prompt);
      const older = best !== undefined && entry.freed < this.#table[best.row]!.freed;
      if (best === undefined || reused > best.reused || (reused === best.reused && older))
        best = { row, reused };
    }
    if (!best) return undefined;
    const entry = this.#table[best.row]!;
    entry.free = false;
    entry.held = entry.held.slice(0, best.reused);
    if (best.reused === 0 && this.oneRow !== undefined) this.#state.clear();
    return best;
  }

  /** Give a row back; its tokens stay until another text needs the row. */
  release(row: number): void {
    const entry = this.#table[row]!;
    entry.free = true;
    entry.freed = ++this.#clock;
  }

  /** Tokens of a text that its row does not hold. */
  missing({ row, text }: RowText): number {
    return text.length - this.#table[row]!.held.length;
  }

  /**
   * Run the next tokens of each text: one where one is missing in each, else up to a chunk. Gives the logits [vocab] of
   * the last token of each text that is complete then.
   *
   * Texts that miss one token and texts that miss more are not mixed in a step, so that a step of one token has the same
   * shape, and thus the same kernels and sums, whoever is beside it.
   */
  async advance(texts: readonly RowText[]): Promise<(Float32Array | undefined)[]> {
    const ends = this.oneRow === undefined ? this.#advanceRows(texts) : this.#advanceOne(texts[0]!);
    if (!ends.includes(true)) {
      this.#model.gpu.flush();
      return ends.map(() => undefined);
    }
    const all = Float32Array.from(await this.#logits.read());
    const width = this.#model.config.vocabSize;
    return texts.map(({ row }, i) => (ends[i] ? all.subarray(row * width, (row + 1) * width) : undefined));
  }

  /** Whether each text is complete after the step. */
  #advanceRows(texts: readonly RowText[]): boolean[] {
    const width = texts.every((entry) => this.missing(entry) === 1) ? 1 : Math.min(CHUNK, this.length);
    const ids = new Int32Array(this.rows * width);
    const positions = new Int32Array(this.rows * width).fill(-1);
    const ends = texts.map(({ row, text }) => {
      const { held } = this.#table[row]!;
      const from = held.length;
      const to = Math.min(text.length, from + width);
      // The row's newest token stands in the last column, whose logits are computed.
      const first = (row + 1) * width - (to - from);
      for (let at = from; at < to; at++) {
        ids[first + at - from] = text[at]!;
        positions[first + at - from] = at;
        held.push(text[at]!);
      }
      return to === text.length;
    });
    const { gpu } = this.#model;
    const step = this.#step(width);
    step.ids.write(ids);
    step.positions.write(positions);
    const run = (): void => {
      gpu.copy(this.#run(step.ids, step.positions, this.length).reshape(this.#logits.shape), this.#logits);
    };
    if (step.recording) step.recording.replay();
    else step.recording = gpu.record(run);
    return ends;
  }

  /** One text alone, in the pieces that `generate` takes. */
  #advanceOne({ text }: RowText): boolean[] {
    const row = this.#table[0]!;
    const { gpu } = this.#model;
    const { textLength } = this.#state;
    if (textLength !== undefined && this.#model.changes(textLength, text.length)) {
      this.#state.clear();
      row.held = [];
    }
    const from = row.held.length;
    const piece = text.slice(from, from + this.#state.maxChunk);
    gpu.scope(() => {
      const shape = [1, piece.length];
      const at = Int32Array.from(piece, (_, i) => from + i);
      const out = this.#run(gpu.tensor(piece, shape, "i32"), gpu.tensor(at, shape, "i32"), text.length);
      gpu.copy(out.reshape(this.#logits.shape), this.#logits);
    });
    row.held.push(...piece);
    return [row.held.length === text.length];
  }

  #run(ids: Tensor, positionIds: Tensor, textLength: number): Tensor {
    return this.#model.forward(ids, { positionIds, textLength, lastOnly: true }, this.#state);
  }

  #step(width: number): Step {
    const known = this.#steps.get(width);
    if (known) return known;
    const { gpu } = this.#model;
    const input = (): Tensor => gpu.keep(gpu.zeros([this.rows, width], "i32"));
    const step: Step = { ids: input(), positions: input(), recording: undefined };
    this.#steps.set(width, step);
    return step;
  }

  dispose(): void {
    for (const { ids, positions, recording } of this.#steps.values()) {
      recording?.dispose();
      ids.dispose();
      positions.dispose();
    }
    this.#logits.dispose();
    this.#state.dispose();
  }
}
