import type { Tokenizer } from "@x/tokenizer";
import { HostRandom } from "./random.js";

/** Separates documents in a text file. */
export const DOCUMENT_BREAK = "\n\n";

/** Ids of all documents one after another, each ended by the end-of-text token. */
export function encodeDocuments(
  documents: readonly string[],
  tokenizer: Tokenizer,
  end: number | undefined = tokenizer.eosTokenId,
): Int32Array {
  const out: number[] = [];
  for (const text of documents) {
    for (const id of tokenizer.encode(text, { addSpecialTokens: false })) out.push(id);
    if (end !== undefined) out.push(end);
  }
  return Int32Array.from(out);
}

export interface Batch {
  readonly ids: Int32Array;
  readonly targets: Int32Array;
}

/** Where documents begin in a stream, as far as `seqLen + 1` ids follow. */
export function documentStarts(stream: Int32Array, end: number | undefined, seqLen: number): Int32Array {
  const starts = [0];
  stream.forEach((id, i) => {
    if (id === end && i + 1 < stream.length - seqLen) starts.push(i + 1);
  });
  return Int32Array.from(starts);
}

/**
 * Windows of a stream at random places, a share of them at random starts of documents; a function of seed and step
 * alone.
 */
export function trainingBatch(
  stream: Int32Array,
  batch: number,
  seqLen: number,
  seed: number,
  step: number,
  starts: { readonly at: Int32Array; readonly share: number } = { at: new Int32Array(), share: 0 },
): Batch {
  const random = new HostRandom(0xda7a, seed, step);
  const ids = new Int32Array(batch * seqLen);
  const targets = new Int32Array(batch * seqLen);
  for (let b = 0; b < batch; b++) {
    const whole = starts.share > 0 && random.next() < starts.share;
    const at = whole ? starts.at[random.int(starts.at.length)]! : random.int(stream.length - seqLen);
    ids.set(stream.subarray(at, at + seqLen), b * seqLen);
    targets.set(stream.subarray(at + 1, at + 1 + seqLen), b * seqLen);
  }
  return { ids, targets };
}

/** Consecutive windows of a stream, padded with targets that do not count. */
export function* evaluationBatches(
  stream: Int32Array,
  batch: number,
  seqLen: number,
): Generator<Batch & { readonly count: number }> {
  const per = batch * seqLen;
  for (let start = 0; start + 1 < stream.length; start += per) {
    const count = Math.min(per, stream.length - 1 - start);
    const ids = new Int32Array(per);
    const targets = new Int32Array(per).fill(-100);
    ids.set(stream.subarray(start, start + count));
    targets.set(stream.subarray(start + 1, start + 1 + count));
    yield { ids, targets, count };
  }
}
