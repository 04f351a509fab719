import { Heap } from "./heap.js";

/** Merges by pair of ids: the rank that says which comes first, and the token they make. */
export class MergeTable {
  readonly #stride: number;
  readonly #ranks: Map<number, number> = new Map<number, number>();
  readonly #results: number[] = [];

  constructor(vocabSize: number) {
    this.#stride = vocabSize;
  }

  get size(): number {
    return this.#results.length;
  }

  has(left: number, right: number): boolean {
    return this.#ranks.has(left * this.#stride + right);
  }

  add(left: number, right: number, result: number): void {
    this.#ranks.set(left * this.#stride + right, this.#results.length);
    this.#results.push(result);
  }

  rank(left: number, right: number): number | undefined {
    return this.#ranks.get(left * this.#stride + right);
  }

  result(rank: number): number {
    return this.#results[rank]!;
  }
}

/** Words up to this length are searched, longer ones use a heap. */
const SHORT = 24;

/** Apply merges, the lowest rank first and from the left, until none fits (Sennrich et al. 2016, algorithm 1). */
export function applyMerges(ids: number[], merges: MergeTable): number[] {
  return ids.length <= SHORT ? mergeShort(ids, merges) : mergeLong(ids, merges);
}

function mergeShort(ids: number[], merges: MergeTable): number[] {
  const word = [...ids];
  for (;;) {
    let best = Infinity;
    let at = -1;
    for (let i = 0; i + 1 < word.length; i++) {
      const rank = merges.rank(word[i]!, word[i + 1]!);
      if (rank !== undefined && rank < best) [best, at] = [rank, i];
    }
    if (at < 0) return word;
    word.splice(at, 2, merges.result(best));
  }
}

/** A linked list of symbols and a heap of candidate merges ordered by (rank, position): n log n. */
function mergeLong(ids: number[], merges: MergeTable): number[] {
  const n = ids.length;
  const symbol = Int32Array.from(ids);
  const next = Int32Array.from({ length: n }, (_, i) => i + 1);
  const previous = Int32Array.from({ length: n }, (_, i) => i - 1);
  const alive = new Uint8Array(n).fill(1);
  // Entries are rank * 2^26 + position: words are shorter than 2^26 bytes.
  const heap = new Heap<number>((a, b) => a < b);
  const SPAN = 2 ** 26;
  const offer = (i: number): void => {
    const j = next[i]!;
    if (j >= n) return;
    const rank = merges.rank(symbol[i]!, symbol[j]!);
    if (rank !== undefined) heap.push(rank * SPAN + i);
  };
  for (let i = 0; i + 1 < n; i++) offer(i);
  for (let entry = heap.pop(); entry !== undefined; entry = heap.pop()) {
    const rank = Math.floor(entry / SPAN);
    const i = entry % SPAN;
    if (!alive[i]) continue;
    const j = next[i]!;
    // Stale when a neighbour has changed since.
    if (j >= n || merges.rank(symbol[i]!, symbol[j]!) !== rank) continue;
    symbol[i] = merges.result(rank);
    alive[j] = 0;
    next[i] = next[j]!;
    if (next[i] < n) previous[next[i]] = i;
    offer(i);
    if (previous[i]! >= 0) offer(previous[i]!);
  }
  const out: number[] = [];
  for (let i = 0; i < n; i = next[i]!) out.push(symbol[i]!);
  return out;
}
