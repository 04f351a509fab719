import { memit, rome } from "@x/ffn";
import { add, concat, ConfigError, matmul, mul, slice, type Tensor } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import type { CausalLM } from "../model/model.js";
import { editDirections, factKeys, usualKeys, type DirectionOptions } from "./edit_direction.js";
import { factRows, type Fact } from "./fact.js";
import { LayerMemory } from "./layer_memory.js";
import { searchValue, type ValueSearchOptions } from "./value_search.js";

export interface EditOptions extends ValueSearchOptions, DirectionOptions {
  /** Layer whose block is changed. */
  readonly layer: number;
  /** Rank-one per fact, one after another, or one update for all facts. */
  readonly method: "rome" | "memit";
  /** MEMIT: weight of what is to stay; absent: every fact is met exactly. */
  readonly lambda?: number | undefined;
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

/**
 * Change what a model says of subjects, by a rank-one edit per fact (ROME) or one update for all (MEMIT) of the values
 * of one layer's feed-forward block; in a mixture, of the experts that the token is sent to. `documents` are text of
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
  const { method, lambda, layer, at, contexts } = options;
  const open = new LayerMemory(model, layer);
  const rows = facts.map((fact) => factRows(tokenizer, fact, contexts, at));
  const made: Tensor[] = [];
  const own = <T extends Tensor>(t: T): T => {
    made.push(t);
    return t;
  };
  const put = async (edited: () => Tensor): Promise<void> => {
    const values = gpu.scope(edited);
    const sound = Array.from(await values.read()).every(Number.isFinite);
    if (sound) open.memory.write(values);
    values.dispose();
    if (!sound)
      throw new ConfigError(
        who,
        "the covariance of the keys is not positive definite; give a larger ridge or more text",
      );
  };
  try {
    const covariance = own(await usualKeys(open, tokenizer, facts, documents, options));
    const before = own(gpu.scope(() => gpu.keep(mul(open.memory.values(), 1))));
    const keys = own(factKeys(open, tokenizer, facts, options));
    const directions = own(editDirections(covariance, keys, method === "memit"));
    const done: EditedFact[] = [];
    const values: Tensor[] = [];
    for (const [i, fact] of facts.entries()) {
      const row = (t: Tensor): Tensor => own(gpu.scope(() => slice(t, { axis: 0, start: i, end: i + 1 })));
      const [key, direction] = [row(keys), row(directions)];
      const start = own(
        gpu.scope(() => {
          const out = matmul(key, open.memory.values(), { transposeB: true });
          return out.reshape([out.size]);
        }),
      );
      const { delta, losses } = await searchValue(open, rows[i]!, start, direction, options);
      own(delta);
      const value = own(gpu.scope(() => add(start, delta)));
      values.push(value);
      const edited = { fact, lossBefore: losses[0]!, lossAfter: losses.at(-1)! };
      done.push(edited);
      onFact(edited);
      if (method === "rome")
        await put(() => rome(open.memory.values(), { covariance, key: key.reshape([key.size]), value }).w);
    }
    if (method === "memit")
      await put(() => {
        const wanted = concat(values.map((value) => value.reshape([1, value.size])));
        const metric = { covariance, keys, values: wanted };
        return memit(open.memory.values(), metric, lambda === undefined ? { mode: "exact" } : { lambda });
      });
    const after = own(gpu.scope(() => gpu.keep(mul(open.memory.values(), 1))));
    return { facts: done, change: await relativeChange(before, after) };
  } finally {
    for (const t of made) t.dispose();
  }
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
