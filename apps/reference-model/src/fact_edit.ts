import { factValue, keyCovariance, memit, rome, type FactValueOptions } from "@x/ffn";
import {
  add,
  ConfigError,
  crossEntropy,
  gather,
  logSoftmax,
  matmul,
  mean,
  mul,
  softmax,
  stack,
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
  /** Rank-one per fact, one after another; or all facts at once. */
  readonly method: "rome" | "memit";
  /** Texts that come before the prompts, each with the space or break that ends it; "" for none. */
  readonly contexts: readonly string[];
  /** Part of the covariance's mean diagonal that is added to the diagonal. */
  readonly ridge?: number;
  /** MEMIT: weight of what is to stay; absent: every fact is met exactly. */
  readonly lambda?: number | undefined;
  /** Weight of the divergence of what follows the subject itself. */
  readonly kl?: number;
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

/** One text of a fact: ids, where the subject ends, and which positions say the target. */
interface Row {
  readonly ids: readonly number[];
  readonly subject: number;
  readonly targets: readonly number[];
}

/** Ids of `text` where `prefix` ends at a token's end: how many tokens the prefix takes. */
function tokensOf(tokenizer: Tokenizer, who: string, prefix: string, ids: readonly number[]): number {
  const head = tokenizer.encode(prefix, { addSpecialTokens: false });
  if (head.some((id, i) => id !== ids[i]))
    throw new ConfigError(who, `${JSON.stringify(prefix)} does not end where a token ends`);
  return head.length;
}

function rowOf(tokenizer: Tokenizer, fact: Fact, context: string, prompt: string): Row {
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
  return { ids, subject, targets: Array.from({ length: ids.length - first }, (_, i) => first + i - 1) };
}

/** Ids of rows, padded at the end: [rows, longest]. Nothing looks ahead, so padding changes nothing. */
function padded(gpu: Gpu, rows: readonly Row[]): { ids: Tensor; width: number } {
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

/** The key of a fact, and the value that makes the model say it. Both are the caller's. */
async function association(
  open: LayerMemory,
  tokenizer: Tokenizer,
  fact: Fact,
  options: EditOptions,
): Promise<{ key: Tensor; value: Tensor; losses: readonly number[] }> {
  const { gpu } = open.model;
  const rows = options.contexts.flatMap((context) =>
    fact.prompts.map((prompt) => rowOf(tokenizer, fact, context, prompt)),
  );
  const { ids, width } = padded(gpu, rows);
  const flat = (positions: readonly number[]): Tensor => gpu.tensor(positions, [positions.length], "i32");
  const subjects = flat(rows.map((row, i) => i * width + row.subject));
  const spoken = rows.flatMap((row, i) =>
    row.targets.map((t) => ({ at: i * width + t, id: row.ids[t + 1]! })),
  );
  const positions = flat(spoken.map(({ at }) => at));
  const targets = flat(spoken.map(({ id }) => id));
  const made: Tensor[] = [ids, subjects, positions, targets];
  try {
    const all = open.keys(ids);
    made.push(all);
    const key = gpu.scope(() =>
      gpu.keep(mean(gather(all.reshape([rows.length * width, all.shape.at(-1)!]), subjects), { axes: 0 })),
    );
    const start = gpu.scope(() => {
      const values = open.memory.values();
      return gpu.keep(matmul(values, key.reshape([key.size, 1])).reshape([values.shape[0]!]));
    });
    made.push(start);
    // 1 at the subject's last token.
    const place = gpu.keep(
      gpu.tensor(
        rows.flatMap((row) => Array.from({ length: width }, (_, t) => (t === row.subject ? 1 : 0))),
        [rows.length, width, 1],
      ),
    );
    made.push(place);
    const at = (hidden: Tensor, which: Tensor): Tensor =>
      open.model.head(gather(hidden.reshape([rows.length * width, hidden.shape.at(-1)!]), which));
    // What follows the subject by itself is to stay, as far as the target is not what follows it.
    const ends = rows.some((row) => row.targets.includes(row.subject));
    const kl = ends ? 0 : (options.kl ?? 0.0625);
    const usual = gpu.scope(() => gpu.keep(softmax(at(open.model.hidden(ids), subjects))));
    made.push(usual);
    const { steps, learningRate, weightDecay, clamp, enough } = options;
    const chosen = { steps, learningRate, weightDecay, clamp, enough };
    const { value, delta, losses } = await factValue(
      start,
      (change) =>
        open.changed(mul(place, change), () => {
          const hidden = open.model.hidden(ids);
          const loss = crossEntropy(at(hidden, positions), targets);
          if (kl === 0) return loss;
          // KL(usual || now), less the entropy of the usual, which does not change.
          const cross = sum(mul(usual, logSoftmax(at(hidden, subjects))));
          return sub(loss, mul(cross, kl / rows.length));
        }),
      Object.fromEntries(Object.entries(chosen).filter(([, v]) => v !== undefined)),
    );
    delta.dispose();
    return { key, value, losses };
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
  const { covariance, scale } = await keyMoments(open, tokenizer, documents);
  const ridge = (options.ridge ?? 0.01) * scale;
  const before = gpu.scope(() => gpu.keep(mul(open.memory.values(), 1)));
  const done: EditedFact[] = [];
  const found: { key: Tensor; value: Tensor }[] = [];
  const put = async (values: Tensor): Promise<void> => {
    const numbers = await values.read();
    if (!Array.from(numbers).every(Number.isFinite))
      throw new ConfigError(
        who,
        "the covariance of the keys is not positive definite; give a larger ridge or more text",
      );
    open.memory.write(values);
  };
  try {
    for (const fact of facts) {
      const { key, value, losses } = await association(open, tokenizer, fact, options);
      const edited = { fact, lossBefore: losses[0]!, lossAfter: losses.at(-1)! };
      done.push(edited);
      onFact(edited);
      if (options.method === "memit") {
        found.push({ key, value });
        continue;
      }
      const values = gpu.scope(() =>
        gpu.keep(rome(open.memory.values(), { covariance, key, value }, { ridge }).w),
      );
      for (const t of [key, value]) t.dispose();
      await put(values).finally(() => {
        values.dispose();
      });
    }
    if (options.method === "memit") {
      const { lambda } = options;
      const values = gpu.scope(() => {
        const keys = stack(found.map(({ key }) => key));
        const wanted = stack(found.map(({ value }) => value));
        const metric = gpu.tensor(
          Array.from({ length: covariance.shape[0]! }, () => ridge),
          [covariance.shape[0]!],
        );
        return gpu.keep(
          memit(
            open.memory.values(),
            { covariance: addDiagonal(covariance, metric), keys, values: wanted },
            lambda === undefined ? { mode: "exact" } : { lambda },
          ),
        );
      });
      for (const { key, value } of found) for (const t of [key, value]) t.dispose();
      await put(values).finally(() => {
        values.dispose();
      });
    }
    const after = gpu.scope(() => gpu.keep(mul(open.memory.values(), 1)));
    const change = await relativeChange(before, after);
    after.dispose();
    return { facts: done, change };
  } finally {
    for (const t of [covariance, before]) t.dispose();
  }
}

/** a with numbers added to its diagonal. */
function addDiagonal(a: Tensor, diagonal: Tensor): Tensor {
  const n = a.shape[0]!;
  const unit = a.gpu.tensor(
    Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0)),
    [n, n],
  );
  return add(a, mul(unit, diagonal));
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
  const out: Belief[] = [];
  for (const claim of claims) {
    const ids = tokenizer.encode(`${claim.prompt}${claim.target}`, { addSpecialTokens: false });
    const first = tokensOf(tokenizer, "beliefs", claim.prompt, ids);
    const logits = gpu.scope(() => logSoftmax(model.forward(gpu.tensor(ids, [1, ids.length], "i32"))));
    const [data, V] = [await logits.read(), logits.shape[2]!];
    logits.dispose();
    let log = 0;
    const said: number[] = [];
    for (let t = first; t < ids.length; t++) {
      const row = Array.from(data.subarray((t - 1) * V, t * V));
      log += row[ids[t]!]!;
      said.push(row.indexOf(Math.max(...row)));
    }
    out.push({ ...claim, probability: Math.exp(log), says: tokenizer.decode(said) });
  }
  return out;
}
