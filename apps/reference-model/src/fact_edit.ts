import { factValue, keyCovariance, memit, rome, type FactValueOptions } from "@x/ffn";
import {
  add,
  concat,
  ConfigError,
  crossEntropy,
  gather,
  logSoftmax,
  matmul,
  mean,
  mul,
  softmax,
  sub,
  sum,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import { encodeDocuments } from "./data.js";
import { LayerMemory } from "./layer_memory.js";
import type { CausalLM } from "./model.js";

/** What the model is to say of a subject: the target follows each prompt. "{}" in a prompt stands for the subject. */
export interface Fact {
  readonly subject: string;
  readonly prompts: readonly string[];
  readonly target: string;
}

export interface EditOptions extends FactValueOptions {
  /** Layer whose block is changed. */
  readonly layer: number;
  /** The token whose key is edited: the subject's last one (default), or the one that says the target. */
  readonly at?: "subject" | "last";
  /** Rank-one per fact, one after another, for the mean key of its prompts; or every prompt of every fact at once. */
  readonly method: "rome" | "memit";
  /** Texts that come before the prompts, each with the space or break that ends it; "" for none. */
  readonly contexts: readonly string[];
  /** Part of the covariance's mean diagonal that is added to the diagonal. */
  readonly ridge?: number;
  /** MEMIT: weight of what is to stay; absent: every fact is met exactly. */
  readonly lambda?: number | undefined;
  /** Weight of the divergence of what follows the subject itself. */
  readonly kl?: number;
  /** Subjects of which the model is to say what it says: the keys of the prompts about them count as usual ones. */
  readonly keep?: readonly string[];
  /** Weight of their second moment, where the one over the text has 1; default 10. */
  readonly keepWeight?: number;
}

export interface EditedFact {
  readonly fact: Fact;
  /** -log p(target), at the first and the last step of the search for the value. */
  readonly lossBefore: number;
  readonly lossAfter: number;
}

export interface EditResult {
  readonly facts: readonly EditedFact[];
  /** |W' - W| / |W| of the changed matrix. */
  readonly change: number;
}

/** Texts of one pass. */
const TOGETHER = 32;

/** One text of a fact: ids, where the key is taken, and which positions say the target. */
interface Row {
  readonly ids: readonly number[];
  readonly key: number;
  readonly targets: readonly number[];
}

/** Ids of `text` where `prefix` ends at a token's end: how many tokens the prefix takes. */
function tokensOf(tokenizer: Tokenizer, who: string, prefix: string, ids: readonly number[]): number {
  const head = tokenizer.encode(prefix, { addSpecialTokens: false });
  if (head.some((id, i) => id !== ids[i]))
    throw new ConfigError(who, `${JSON.stringify(prefix)} does not end where a token ends`);
  return head.length;
}

function rowOf(tokenizer: Tokenizer, fact: Fact, context: string, prompt: string, last: boolean): Row {
  const who = "editFacts";
  const parts = prompt.split("{}");
  if (parts.length !== 2) throw new ConfigError(who, `prompt ${JSON.stringify(prompt)} must hold {} once`);
  const head = `${context}${parts[0]!}${fact.subject}`;
  const whole = `${head}${parts[1]!}${fact.target}`;
  const ids = tokenizer.encode(whole, { addSpecialTokens: false });
  const subject = tokensOf(tokenizer, who, head, ids) - 1;
  const first = tokensOf(tokenizer, who, `${head}${parts[1]!}`, ids);
  if (first === ids.length) throw new ConfigError(who, "the target is empty");
  // The token before says the next one.
  return {
    ids,
    key: last ? first - 1 : subject,
    targets: Array.from({ length: ids.length - first }, (_, i) => first + i - 1),
  };
}

/** Ids of rows, padded at the end: [rows, longest]. Nothing looks ahead, so padding changes nothing. */
function padded(
  gpu: Gpu,
  rows: readonly { readonly ids: readonly number[] }[],
): { ids: Tensor; width: number } {
  const width = Math.max(...rows.map((row) => row.ids.length));
  const data = new Int32Array(rows.length * width);
  rows.forEach((row, i) => {
    data.set(row.ids, i * width);
  });
  return { ids: gpu.tensor(data, [rows.length, width], "i32"), width };
}

/**
 * Second moment of the keys of a layer over a text, and the mean of its diagonal.
 *
 * @throws ConfigError if the text is too short to say anything.
 */
export async function keyMoments(
  open: LayerMemory,
  tokenizer: Tokenizer,
  documents: readonly string[],
  { tokens = 8192, seqLen = 128, batch = 8 }: { tokens?: number; seqLen?: number; batch?: number } = {},
): Promise<{ covariance: Tensor; scale: number }> {
  const { gpu } = open.model;
  const stream = encodeDocuments(documents, tokenizer);
  const chunk = seqLen * batch;
  const chunks = Math.floor(Math.min(stream.length, tokens) / chunk);
  if (chunks === 0)
    throw new ConfigError(
      "keyMoments",
      `the text has ${stream.length} tokens; it must have at least ${chunk}`,
    );
  let total: Tensor | undefined;
  for (let i = 0; i < chunks; i++) {
    const before = total;
    total = gpu.scope(() => {
      const ids = gpu.tensor(stream.subarray(i * chunk, (i + 1) * chunk), [batch, seqLen], "i32");
      const keys = open.keys(ids);
      const F = keys.shape.at(-1)!;
      const moment = mul(keyCovariance(keys.reshape([chunk, F])), 1 / chunks);
      keys.dispose();
      return gpu.keep(before ? add(before, moment) : moment);
    });
    before?.dispose();
  }
  const F = total!.shape[0]!;
  const diagonal = (await total!.read()).filter((_, i) => i % (F + 1) === 0);
  return { covariance: total!, scale: Array.from(diagonal).reduce((a, b) => a + b, 0) / F };
}

/** Mean k k^T over the prompts of the facts, after each context, with other subjects in place of theirs. */
function keptMoment(
  open: LayerMemory,
  tokenizer: Tokenizer,
  facts: readonly Fact[],
  { keep = [], contexts, at }: EditOptions,
): Tensor {
  const { gpu } = open.model;
  const rows = keep.flatMap((subject) =>
    facts.flatMap((fact) =>
      fact.prompts.flatMap((prompt) =>
        contexts.map((context) => rowOf(tokenizer, { ...fact, subject }, context, prompt, at === "last")),
      ),
    ),
  );
  const groups = Array.from({ length: Math.ceil(rows.length / TOGETHER) }, (_, i) =>
    rows.slice(i * TOGETHER, (i + 1) * TOGETHER),
  );
  return gpu.scope(() => {
    const found = groups.map((some) => {
      const { ids, width } = padded(gpu, some);
      const keys = open.keys(ids);
      const places = some.map((row, i) => i * width + row.key);
      const own = gather(
        keys.reshape([some.length * width, keys.shape.at(-1)!]),
        gpu.tensor(places, [places.length], "i32"),
      );
      keys.dispose();
      return own;
    });
    return keyCovariance(concat(found));
  });
}

/** A fact as pairs of a key and the value that makes the model say it. */
interface Association {
  /** [pairs, F] */
  readonly keys: Tensor;
  /** [pairs, dim] */
  readonly values: Tensor;
  readonly losses: readonly number[];
}

/** One pair per prompt, its key the mean over the contexts, all with one change of the output; or one for all. */
async function associate(
  open: LayerMemory,
  tokenizer: Tokenizer,
  fact: Fact,
  options: EditOptions,
): Promise<Association> {
  const { gpu } = open.model;
  const last = options.at === "last";
  const { contexts } = options;
  const rows = fact.prompts.flatMap((prompt) =>
    contexts.map((context) => rowOf(tokenizer, fact, context, prompt, last)),
  );
  const { ids, width } = padded(gpu, rows);
  const flat = (positions: readonly number[]): Tensor => gpu.tensor(positions, [positions.length], "i32");
  const places = flat(rows.map((row, i) => i * width + row.key));
  const spoken = rows.flatMap((row, i) =>
    row.targets.map((t) => ({ at: i * width + t, id: row.ids[t + 1]! })),
  );
  const positions = flat(spoken.map(({ at }) => at));
  const targets = flat(spoken.map(({ id }) => id));
  // 1 at the token whose key is edited.
  const here = gpu.tensor(
    rows.flatMap((row) => Array.from({ length: width }, (_, t) => (t === row.key ? 1 : 0))),
    [rows.length, width, 1],
  );
  const all = open.keys(ids);
  const made: Tensor[] = [ids, places, positions, targets, here, all];
  let given: Tensor | undefined;
  const pick = (x: Tensor, which: Tensor): Tensor =>
    gather(x.reshape([rows.length * width, x.shape.at(-1)!]), which);
  try {
    const { keys, outputs, start, usual } = gpu.scope(() => {
      const own = pick(all, places);
      const F = own.shape[1]!;
      const pairs = options.method === "rome" ? 1 : fact.prompts.length;
      const means = mean(own.reshape([pairs, rows.length / pairs, F]), { axes: 1 });
      const out = matmul(means, open.memory.values(), { transposeB: true });
      const likely = softmax(open.model.head(pick(open.model.hidden(ids), places)));
      return { keys: means, outputs: out, start: mean(out, { axes: 0 }), usual: likely };
    });
    made.push(outputs, start, usual);
    given = keys;
    // What follows the subject by itself is to stay, as far as the target is not what follows it.
    const ends = rows.some((row) => row.targets.includes(row.key));
    const kl = ends ? 0 : (options.kl ?? 0.0625);
    const { steps, learningRate, weightDecay, clamp, enough } = options;
    const search = Object.entries({ steps, learningRate, weightDecay, clamp, enough });
    const { value, delta, losses } = await factValue(
      start,
      (change) => {
        const hidden = open.hidden(ids, mul(here, change));
        const loss = crossEntropy(open.model.head(pick(hidden, positions)), targets);
        if (kl === 0) return loss;
        // KL(usual || now), less the entropy of the usual, which does not change.
        const cross = sum(mul(usual, logSoftmax(open.model.head(pick(hidden, places)))));
        return sub(loss, mul(cross, kl / rows.length));
      },
      Object.fromEntries(search.filter(([, v]) => v !== undefined)),
    );
    made.push(value, delta);
    const values = gpu.scope(() => add(outputs, delta));
    return { keys, values, losses };
  } catch (error) {
    given?.dispose();
    throw error;
  } finally {
    for (const tensor of made) tensor.dispose();
  }
}

/**
 * Change what a model says of subjects, by a rank-one edit per fact (ROME) or one update for all (MEMIT) of the values
 * of one layer's feed-forward block; in a mixture, of the experts that the subject is sent to. `documents` are text of
 * the model's kind, from which the usual keys are taken.
 *
 * Meng et al. 2022, arXiv:2202.05262 and arXiv:2210.07229.
 *
 * @throws ConfigError
 */
export async function editFacts(
  model: CausalLM,
  tokenizer: Tokenizer,
  facts: readonly Fact[],
  documents: readonly string[],
  options: EditOptions,
  onFact: (done: EditedFact) => void = () => undefined,
): Promise<EditResult> {
  const who = "editFacts";
  if (facts.length === 0) throw new ConfigError(who, "there are no facts");
  const { gpu } = model;
  const open = new LayerMemory(model, options.layer);
  const { keep = [], keepWeight = 10 } = options;
  if (!(keepWeight >= 0)) throw new ConfigError(who, `keepWeight is ${keepWeight}; it must be at least 0`);
  const own = facts.find((fact) => keep.includes(fact.subject));
  if (own) throw new ConfigError(who, `keep lists ${own.subject}, of which a fact is to change`);
  const { covariance: usual, scale } = await keyMoments(open, tokenizer, documents);
  let covariance = usual;
  if (keep.length > 0) {
    try {
      covariance = gpu.scope(() => add(usual, mul(keptMoment(open, tokenizer, facts, options), keepWeight)));
    } finally {
      usual.dispose();
    }
  }
  const ridge = (options.ridge ?? 0.01) * scale;
  const before = gpu.scope(() => gpu.keep(mul(open.memory.values(), 1)));
  const done: EditedFact[] = [];
  const found: Association[] = [];
  const put = async (edited: () => Tensor): Promise<void> => {
    const values = gpu.scope(edited);
    const numbers = await values.read();
    const sound = Array.from(numbers).every(Number.isFinite);
    if (sound) open.memory.write(values);
    values.dispose();
    if (!sound)
      throw new ConfigError(
        who,
        "the covariance of the keys is not positive definite; give a larger ridge or more text",
      );
  };
  try {
    for (const fact of facts) {
      const association = await associate(open, tokenizer, fact, options);
      const { keys, values, losses } = association;
      const edited = { fact, lossBefore: losses[0]!, lossAfter: losses.at(-1)! };
      done.push(edited);
      onFact(edited);
      found.push(association);
      if (options.method === "rome") {
        const [key, value] = [keys.reshape([keys.size]), values.reshape([values.size])];
        await put(() => rome(open.memory.values(), { covariance, key, value }, { ridge }).w);
        for (const t of [key, value]) t.dispose();
      }
    }
    if (options.method === "memit") {
      const { lambda } = options;
      await put(() => {
        const keys = concat(found.map((f) => f.keys));
        const values = concat(found.map((f) => f.values));
        const metric = { covariance: addDiagonal(covariance, ridge), keys, values };
        return memit(open.memory.values(), metric, lambda === undefined ? { mode: "exact" } : { lambda });
      });
    }
    const after = gpu.scope(() => gpu.keep(mul(open.memory.values(), 1)));
    const change = await relativeChange(before, after);
    after.dispose();
    return { facts: done, change };
  } finally {
    for (const t of [covariance, before, ...found.flatMap(({ keys, values }) => [keys, values])]) t.dispose();
  }
}

/** A matrix with a number added to its diagonal. */
function addDiagonal(a: Tensor, value: number): Tensor {
  const n = a.shape[0]!;
  const diagonal = Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? value : 0));
  return add(a, a.gpu.tensor(diagonal, [n, n]));
}

async function relativeChange(before: Tensor, after: Tensor): Promise<number> {
  const [a, b] = [await before.read(), await after.read()];
  let [moved, size] = [0, 0];
  a.forEach((v, i) => {
    moved += (b[i]! - v) ** 2;
    size += v ** 2;
  });
  return Math.sqrt(moved / size);
}

export interface Claim {
  /** A text, and what may follow it. */
  readonly prompt: string;
  readonly target: string;
}

export interface Belief extends Claim {
  /** Probability of the target after the prompt. */
  readonly probability: number;
  /** What the model says there itself: its likeliest tokens, as many as the target has. */
  readonly says: string;
}

/** What a model makes of claims. */
export async function beliefs(
  model: CausalLM,
  tokenizer: Tokenizer,
  claims: readonly Claim[],
): Promise<Belief[]> {
  const { gpu } = model;
  const rows = claims.map((claim) => {
    const ids = tokenizer.encode(`${claim.prompt}${claim.target}`, { addSpecialTokens: false });
    return { claim, ids, first: tokensOf(tokenizer, "beliefs", claim.prompt, ids) };
  });
  const out: Belief[] = [];
  for (let start = 0; start < rows.length; start += TOGETHER) {
    const some = rows.slice(start, start + TOGETHER);
    const { ids, width } = padded(gpu, some);
    const spoken = some.flatMap((row, i) =>
      Array.from({ length: row.ids.length - row.first }, (_, t) => i * width + row.first + t - 1),
    );
    const logs = gpu.scope(() => {
      const hidden = model.hidden(ids);
      const flat = hidden.reshape([some.length * width, hidden.shape.at(-1)!]);
      return logSoftmax(model.head(gather(flat, gpu.tensor(spoken, [spoken.length], "i32"))));
    });
    ids.dispose();
    const [data, V] = [await logs.read(), logs.shape[1]!];
    logs.dispose();
    let at = 0;
    for (const { claim, ids: own, first } of some) {
      let log = 0;
      const said: number[] = [];
      for (let t = first; t < own.length; t++, at++) {
        const row = Array.from(data.subarray(at * V, (at + 1) * V));
        log += row[own[t]!]!;
        said.push(row.indexOf(Math.max(...row)));
      }
      out.push({ ...claim, probability: Math.exp(log), says: tokenizer.decode(said) });
    }
  }
  return out;
}
