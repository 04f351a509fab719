import type { HostRandom } from "../corpus/random.js";

/** How an id is drawn from logits, as OpenAI's parameters of the same names say. */
export interface DrawOptions {
  /** 0 takes the best id. */
  readonly temperature: number;
  readonly topP: number;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  /** Added to the logits of ids. */
  readonly logitBias: ReadonlyMap<number, number>;
  /** Best ids to report with each drawn one; undefined reports nothing. */
  readonly topLogprobs: number | undefined;
}

export interface IdLogprob {
  readonly id: number;
  readonly logprob: number;
}

export interface Drawn {
  readonly id: number;
  /** Of the model's own distribution, before temperature, bias and penalties. */
  readonly logprob: number | undefined;
  readonly top: readonly IdLogprob[];
}

/** Logits with the biases added and the penalties for ids that occurred subtracted. */
function adjusted(
  logits: Float32Array,
  { logitBias, frequencyPenalty, presencePenalty }: DrawOptions,
  counts: ReadonlyMap<number, number>,
): Float32Array {
  const penalised = frequencyPenalty !== 0 || presencePenalty !== 0;
  if (logitBias.size === 0 && !(penalised && counts.size > 0)) return logits;
  const out = logits.slice();
  for (const [id, bias] of logitBias) out[id]! += bias;
  if (penalised) for (const [id, count] of counts) out[id]! -= frequencyPenalty * count + presencePenalty;
  return out;
}

/** The first of the largest; a NaN is never one. */
function best(logits: Float32Array): number {
  let at = -1;
  for (let i = 0; i < logits.length; i++)
    if (at < 0 ? logits[i]! > -Infinity : logits[i]! > logits[at]!) at = i;
  return Math.max(at, 0);
}

/** Ids by falling weight, the fewest that hold the share `topP` of the sum. */
function nucleus(weights: Float64Array, topP: number): number[] {
  const total = weights.reduce((a, b) => a + b, 0);
  const held = (ids: Iterable<number>): number[] | undefined => {
    let sum = 0;
    const kept: number[] = [];
    for (const id of ids) {
      kept.push(id);
      sum += weights[id]!;
      if (sum >= topP * total) return kept;
    }
    return undefined;
  };
  const above = (least: number): number[] => {
    const ids: number[] = [];
    for (let i = 0; i < weights.length; i++) if (weights[i]! > least) ids.push(i);
    return ids.sort((a, b) => weights[b]! - weights[a]! || a - b);
  };
  // Most of the probability lies on few ids; sorting the whole vocabulary is the exception.
  const likely = above(1e-3);
  const all = held(likely);
  if (all) return all;
  const every = above(0);
  return held(every) ?? every;
}

function drawId(logits: Float32Array, { temperature, topP }: DrawOptions, random: HostRandom): number {
  const top = best(logits);
  if (temperature === 0) return top;
  const weights = new Float64Array(logits.length);
  for (let i = 0; i < logits.length; i++) {
    const x = logits[i]!;
    // Compared first: equal infinities have no difference.
    weights[i] = Number.isNaN(x) ? 0 : x >= logits[top]! ? 1 : Math.exp((x - logits[top]!) / temperature);
  }
  const kept = topP < 1 ? nucleus(weights, topP) : undefined;
  const among = kept ?? weights.keys();
  let total = 0;
  for (const id of kept ?? weights.keys()) total += weights[id]!;
  const goal = random.next() * total;
  let sum = 0;
  let last = top;
  for (const id of among) {
    if (weights[id] === 0) continue;
    sum += weights[id]!;
    last = id;
    if (goal < sum) break;
  }
  return last;
}

/** Logarithms of probabilities of `id` and of the `count` best ids: logits - log sum exp(logits). */
function logprobs(logits: Float32Array, id: number, count: number): { own: number; top: IdLogprob[] } {
  const largest = logits[best(logits)]!;
  let sum = 0;
  for (const x of logits) if (!Number.isNaN(x)) sum += Math.exp(x - largest);
  const norm = largest + Math.log(sum);
  const ids: number[] = [];
  for (let i = 0; i < logits.length && count > 0; i++) {
    const x = logits[i]!;
    if (Number.isNaN(x) || (ids.length === count && x <= logits[ids.at(-1)!]!)) continue;
    if (ids.length === count) ids.pop();
    const at = ids.findIndex((other) => logits[other]! < x);
    ids.splice(at < 0 ? ids.length : at, 0, i);
  }
  return { own: logits[id]! - norm, top: ids.map((i) => ({ id: i, logprob: logits[i]! - norm })) };
}

/**
 * Draws one id from logits [vocab]: bias and penalties first, then temperature, then the fewest ids that hold the share
 * `topP`. `counts` says how often each id occurred in the continuation.
 */
export function draw(
  logits: Float32Array,
  options: DrawOptions,
  counts: ReadonlyMap<number, number>,
  random: HostRandom,
): Drawn {
  const id = drawId(adjusted(logits, options, counts), options, random);
  const { topLogprobs } = options;
  if (topLogprobs === undefined) return { id, logprob: undefined, top: [] };
  const { own, top } = logprobs(logits, id, topLogprobs);
  return { id, logprob: own, top };
}
