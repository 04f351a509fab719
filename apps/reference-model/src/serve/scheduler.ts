import type { CachePool } from "./pool.js";
import type { Piece, Sequence } from "./sequence.js";

/** Why a request is not taken. */
export class RefusedError extends Error {
  readonly reason: "queue full" | "shutting down" | "failed";

  constructor(reason: RefusedError["reason"], message: string) {
    super(message);
    this.name = "RefusedError";
    this.reason = reason;
  }
}

/** Hears what becomes of the sequences of a request. */
export interface Listener {
  /** A row has been found for a sequence. */
  readonly onStart?: (sequence: Sequence) => void;
  readonly onPiece: (sequence: Sequence, piece: Piece) => void;
  /** Nothing more comes for any sequence of the request. */
  readonly onError: (error: Error) => void;
}

/** What a scheduler asks of a pool. */
export type Rows = Pick<CachePool, "rows" | "take" | "release" | "missing" | "advance">;

interface Job {
  readonly sequence: Sequence;
  readonly listener: Listener;
}

interface Running extends Job {
  readonly row: number;
}

/**
 * Runs sequences as rows of one batch: between two steps sequences that have ended leave, and waiting ones join. Steps
 * that read prompts and steps that draw a token each take turns, so that neither waits long for the other.
 */
export class Scheduler {
  readonly #pool: Rows;
  readonly #queue: number;
  #waiting: Job[] = [];
  #running: Running[] = [];
  #loop: Promise<void> | undefined;
  #closing = false;
  #failure: Error | undefined;

  /** @param queue sequences that may wait for a row */
  constructor(pool: Rows, { queue }: { readonly queue: number }) {
    this.#pool = pool;
    this.#queue = queue;
  }

  /** Sequences that run or wait at most. */
  get capacity(): number {
    return this.#pool.rows + this.#queue;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get running(): number {
    return this.#running.length;
  }

  /** Why new requests are refused, whatever they are. */
  get refusal(): RefusedError | undefined {
    if (this.#failure) return new RefusedError("failed", `the model has failed: ${this.#failure.message}`);
    return this.#closing ? new RefusedError("shutting down", "the server is shutting down") : undefined;
  }

  /**
   * Begin sequences as soon as rows are free, first come, first served.
   *
   * @throws RefusedError where they would be more than the free rows and the queue hold
   */
  submit(sequences: readonly Sequence[], listener: Listener): void {
    const { refusal } = this;
    if (refusal) throw refusal;
    const [running, waiting] = [this.#running.length, this.#waiting.length];
    if (running + waiting + sequences.length > this.capacity)
      throw new RefusedError(
        "queue full",
        `${sequences.length} texts are asked for; ${running} are running and ${waiting} are waiting, of ${this.capacity} in all`,
      );
    for (const sequence of sequences) this.#waiting.push({ sequence, listener });
    this.#start();
  }

  /** Stop a sequence, wherever it is; its row is free after the step that runs. */
  cancel(sequence: Sequence): void {
    sequence.cancelled = true;
  }

  /** Refuse new requests and let those that were taken end; after `grace` milliseconds they are cut off. */
  async close(grace: number): Promise<void> {
    this.#closing = true;
    if (!this.#loop) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(() => {
        this.#failAll(new RefusedError("shutting down", "the server has shut down"));
        resolve();
      }, grace);
    });
    await Promise.race([this.#loop, late]);
    clearTimeout(timer);
    await this.#loop;
  }

  #start(): void {
    this.#loop ??= this.#run().finally(() => {
      this.#loop = undefined;
      // A request may have come between the last step and now.
      if (this.#waiting.length > 0) this.#start();
    });
  }

  #failAll(error: Error): void {
    const listeners = new Set([...this.#waiting, ...this.#running].map(({ listener }) => listener));
    for (const { sequence } of [...this.#waiting, ...this.#running]) sequence.cancelled = true;
    for (const { onError } of listeners) onError(error);
  }

  async #run(): Promise<void> {
    try {
      for (;;) {
        this.#leave();
        this.#join();
        if (this.#running.length === 0) return;
        await this.#step((missing) => missing > 1);
        await this.#step((missing) => missing === 1);
      }
    } catch (error) {
      this.#failure = error instanceof Error ? error : new Error(String(error));
      this.#failAll(this.#failure);
      this.#waiting = [];
      this.#running = [];
    }
  }

  /** Free the rows of what was cancelled. */
  #leave(): void {
    this.#waiting = this.#waiting.filter(({ sequence }) => !sequence.cancelled);
    this.#running = this.#running.filter((job) => {
      if (job.sequence.cancelled) this.#pool.release(job.row);
      return !job.sequence.cancelled;
    });
  }

  #join(): void {
    while (this.#waiting.length > 0) {
      const taken = this.#pool.take(this.#waiting[0]!.sequence.options.prompt);
      if (!taken) return;
      const job = this.#waiting.shift()!;
      job.sequence.reused = taken.reused;
      this.#running.push({ ...job, row: taken.row });
      job.listener.onStart?.(job.sequence);
    }
  }

  /** One step of the rows that miss as many tokens as `which` says. */
  async #step(which: (missing: number) => boolean): Promise<void> {
    const jobs = this.#running.filter(
      ({ sequence, row }) => !sequence.cancelled && which(this.#pool.missing({ row, text: sequence.text })),
    );
    if (jobs.length === 0) return;
    const logits = await this.#pool.advance(jobs.map(({ row, sequence }) => ({ row, text: sequence.text })));
    for (const [i, job] of jobs.entries()) {
      const { sequence, listener, row } = job;
      const given = logits[i];
      if (!given || sequence.cancelled) continue;
      const piece = sequence.accept(given);
      if (piece.finish !== undefined) {
        this.#running = this.#running.filter((other) => other !== job);
        this.#pool.release(row);
      }
      listener.onPiece(sequence, piece);
    }
  }
}
