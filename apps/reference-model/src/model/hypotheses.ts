import { ConfigError, expectBoolean, expectInteger, expectNumber } from "@x/kernels";

/** A text that ended. */
export interface Hypothesis {
  /** Without the prompt; with the end-of-text token, if that ended it. */
  readonly ids: readonly number[];
  /** The sum of the log-probabilities of its ids / (number of ids)^lengthPenalty. */
  readonly score: number;
}

/** A text that goes on. */
export interface Beam {
  readonly ids: readonly number[];
  /** The sum of the log-probabilities of its ids. */
  readonly sum: number;
  /** The number of the beam that it goes on from. */
  readonly parent: number;
}

/** An id after a beam, with the sum that the text then has. */
export interface Candidate {
  readonly beam: number;
  readonly id: number;
  readonly sum: number;
}

export interface BeamRules {
  /** Texts that are followed at a time, and texts that are kept. */
  readonly beams: number;
  /** Above 0: longer texts are worth more; below 0: shorter ones. Default: 1. */
  readonly lengthPenalty?: number | undefined;
  /**
   * When a search ends that has as many texts as beams: at once (true); when the best beam, were it to end now, would be
   * no better (false, the default); when it could not become better at any length ("never").
   */
  readonly earlyStopping?: boolean | "never" | undefined;
}

/** What beam search asks of its rules. @throws ConfigError */
export function checkRules(
  who: string,
  { beams, lengthPenalty = 1, earlyStopping = false }: BeamRules,
): void {
  expectInteger(who, "beams", beams, 1);
  expectNumber(who, "lengthPenalty", lengthPenalty);
  if (earlyStopping !== "never") expectBoolean(who, "earlyStopping", earlyStopping);
  if (!Number.isFinite(lengthPenalty))
    throw new ConfigError(who, `lengthPenalty is ${lengthPenalty}; it must be a finite number`);
}

/** The texts of a beam search that ended, and when none can be better: the rules of Hugging Face. */
export class Hypotheses {
  readonly #rules: Required<{ [K in keyof BeamRules]: NonNullable<BeamRules[K]> }>;
  readonly #eos: readonly number[];
  readonly #maxNewTokens: number;
  readonly #ended: Hypothesis[] = [];
  #done = false;

  constructor(rules: BeamRules, eosTokenIds: readonly number[], maxNewTokens: number) {
    const { beams, lengthPenalty = 1, earlyStopping = false } = rules;
    this.#rules = { beams, lengthPenalty, earlyStopping };
    this.#eos = eosTokenIds;
    this.#maxNewTokens = maxNewTokens;
  }

  /** Candidates that a step needs, so that enough of them go on. */
  get candidates(): number {
    return Math.max(2, 1 + this.#eos.length) * this.#rules.beams;
  }

  /** Whether the texts that ended are the result. */
  get done(): boolean {
    return this.#done;
  }

  /** The beams after a step, from its best candidates in falling order. */
  take(beams: readonly Beam[], candidates: readonly Candidate[]): Beam[] {
    const next: Beam[] = [];
    for (const [rank, { beam, id, sum }] of candidates.entries()) {
      const ids = [...beams[beam]!.ids, id];
      if (!this.#eos.includes(id)) next.push({ ids, sum, parent: beam });
      // A text that ends is kept if it is among the best continuations.
      else if (rank < this.#rules.beams) this.#add(ids, sum);
      if (next.length === this.#rules.beams) break;
    }
    const [best] = candidates;
    this.#done = best === undefined || this.#isDone(best.sum, beams[best.beam]!.ids.length + 1);
    return next;
  }

  /** All texts, the best first; beams that did not end count as they are. */
  finish(beams: readonly Beam[]): Hypothesis[] {
    if (!this.#done) for (const { ids, sum } of beams) this.#add(ids, sum);
    // Of equal ones the later is the better.
    return [...this.#ended].reverse().sort((a, b) => b.score - a.score);
  }

  #scoreOf(sum: number, length: number): number {
    return sum / length ** this.#rules.lengthPenalty;
  }

  get #worst(): number {
    return Math.min(...this.#ended.map(({ score }) => score));
  }

  #add(ids: readonly number[], sum: number): void {
    const score = this.#scoreOf(sum, ids.length);
    if (this.#ended.length < this.#rules.beams) this.#ended.push({ ids, score });
    else if (score > this.#worst) {
      this.#ended.push({ ids, score });
      const worst = this.#worst;
      this.#ended.splice(
        this.#ended.findIndex((one) => one.score === worst),
        1,
      );
    }
  }

  #isDone(bestSum: number, length: number): boolean {
    const { beams, earlyStopping, lengthPenalty } = this.#rules;
    if (this.#ended.length < beams) return false;
    if (earlyStopping === true) return true;
    const reached = earlyStopping === "never" && lengthPenalty > 0 ? this.#maxNewTokens : length;
    return this.#worst >= this.#scoreOf(bestSum, reached);
  }
}
