import { BYTE_ALPHABET, BYTE_SYMBOLS } from "../pattern/byte_symbols.js";
import { Heap } from "./heap.js";

/**
 * Learn merges: at each step the pair with the highest count, counted over all words with multiplicity and at every
 * position; among equal counts the smallest (left id, right id). Ids are those of `BYTE_ALPHABET`, then of the new
 * tokens in order. A pair whose string is a token already merges to that token, as in Hugging Face's BpeTrainer.
 *
 * Counts are kept up to date for the words that a merge touches, and candidates wait in a heap.
 */
export function learnMerges(
  texts: Iterable<string>,
  pattern: RegExp,
  count: number,
  minFrequency = 1,
): { tokens: string[]; merges: [string, string][] } {
  const encoder = new TextEncoder();
  const frequencies = new Map<string, number>();
  for (const text of texts) {
    for (const [word] of text.matchAll(pattern)) frequencies.set(word, (frequencies.get(word) ?? 0) + 1);
  }
  const tokens: string[] = [...BYTE_ALPHABET];
  const idOfByte = BYTE_SYMBOLS.map((symbol) => BYTE_ALPHABET.indexOf(symbol));
  const words: number[][] = [];
  const weights: number[] = [];
  for (const [word, weight] of frequencies) {
    words.push(Array.from(encoder.encode(word), (byte) => idOfByte[byte]!));
    weights.push(weight);
  }
  const stride = 256 + count;
  const counts = new Map<number, number>();
  const places = new Map<number, Set<number>>();
  const change = (pair: number, by: number, word: number): void => {
    counts.set(pair, (counts.get(pair) ?? 0) + by);
    if (by > 0) {
      let set = places.get(pair);
      if (!set) places.set(pair, (set = new Set()));
      set.add(word);
    }
  };
  words.forEach((word, w) => {
    for (let i = 0; i + 1 < word.length; i++) change(word[i]! * stride + word[i + 1]!, weights[w]!, w);
  });

  // An entry whose count is out of date is put back with the right one.
  const heap = new Heap<[count: number, pair: number]>(
    (a, b) => a[0] > b[0] || (a[0] === b[0] && a[1] < b[1]),
  );
  for (const [pair, n] of counts) heap.push([n, pair]);

  const merges: [string, string][] = [];
  const ids = new Map(tokens.map((token, i) => [token, i]));
  while (tokens.length < stride) {
    const entry = heap.pop();
    if (!entry) break;
    const [n, pair] = entry;
    const now = counts.get(pair) ?? 0;
    if (n !== now) {
      if (now > 0) heap.push([now, pair]);
      continue;
    }
    if (n < minFrequency || n <= 0) break;
    const [left, right] = [Math.floor(pair / stride), pair % stride];
    const joined = tokens[left]! + tokens[right]!;
    let id = ids.get(joined);
    if (id === undefined) {
      id = tokens.push(joined) - 1;
      ids.set(joined, id);
    }
    merges.push([tokens[left]!, tokens[right]!]);
    const touched = new Set<number>();
    for (const w of places.get(pair) ?? []) {
      const word = words[w]!;
      const weight = weights[w]!;
      const next: number[] = [];
      let hit = false;
      for (let i = 0; i < word.length; i++) {
        if (word[i] === left && word[i + 1] === right) {
          next.push(id);
          i++;
          hit = true;
        } else next.push(word[i]!);
      }
      if (!hit) continue;
      for (let i = 0; i + 1 < word.length; i++) {
        const p = word[i]! * stride + word[i + 1]!;
        change(p, -weight, w);
        touched.add(p);
      }
      for (let i = 0; i + 1 < next.length; i++) {
        const p = next[i]! * stride + next[i + 1]!;
        change(p, weight, w);
        touched.add(p);
      }
      words[w] = next;
    }
    places.delete(pair);
    counts.delete(pair);
    for (const p of touched) {
      const c = counts.get(p) ?? 0;
      if (c > 0) heap.push([c, p]);
    }
  }
  return { tokens, merges };
}
