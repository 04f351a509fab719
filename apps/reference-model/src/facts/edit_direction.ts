import { keyCovariance, spdSolve } from "@x/ffn";
import { add, concat, ConfigError, matmul, mean, mul, slice, transpose, type Tensor } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import { factRows, type Fact, type FactPlace } from "./fact.js";
import { keyMoments, rowKeys } from "./key_moments.js";
import type { LayerMemory } from "./layer_memory.js";

export interface DirectionOptions {
  readonly at: FactPlace;
  /** Texts that come before the prompts, each with the space or break that ends it; "" for none. */
  readonly contexts: readonly string[];
  /** Part of the covariance's mean diagonal that is added to the diagonal; default 0.01. */
  readonly ridge?: number;
  /** Subjects of which the model is to say what it says: the keys of the prompts about them count as usual ones. */
  readonly keep?: readonly string[];
  /** Weight of their second moment, where the one over the text has 1; default 10. */
  readonly keepWeight?: number;
}

/** A matrix with a number added to its diagonal. */
function addDiagonal(a: Tensor, value: number): Tensor {
  const n = a.shape[0]!;
  const diagonal = Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? value : 0));
  return add(a, a.gpu.tensor(diagonal, [n, n]));
}

/**
 * What usual keys look like [F, F], positive definite: their second moment over a text, that of the facts' prompts
 * with the kept subjects in place of their own, and a ridge.
 *
 * @throws ConfigError
 */
export async function usualKeys(
  open: LayerMemory,
  tokenizer: Tokenizer,
  facts: readonly Fact[],
  documents: readonly string[],
  { at, contexts, ridge = 0.01, keep = [], keepWeight = 10 }: DirectionOptions,
): Promise<Tensor> {
  const who = "editFacts";
  if (!(keepWeight >= 0)) throw new ConfigError(who, `keepWeight is ${keepWeight}; it must be at least 0`);
  const own = facts.find((fact) => keep.includes(fact.subject));
  if (own) throw new ConfigError(who, `keep lists ${own.subject}, of which a fact is to change`);
  const rows = keep.flatMap((subject) =>
    facts.flatMap((fact) => factRows(tokenizer, { ...fact, subject }, contexts, at)),
  );
  const { covariance, scale } = await keyMoments(open, tokenizer, documents);
  try {
    return open.model.gpu.scope(() => {
      const kept = rows.length > 0 ? mul(keyCovariance(rowKeys(open, rows)), keepWeight) : undefined;
      return addDiagonal(kept ? add(covariance, kept) : covariance, ridge * scale);
    });
  } finally {
    covariance.dispose();
  }
}

/** The mean key of each fact over its prompts and contexts: [facts, F]. */
export function factKeys(
  open: LayerMemory,
  tokenizer: Tokenizer,
  facts: readonly Fact[],
  { at, contexts }: DirectionOptions,
): Tensor {
  return open.model.gpu.scope(() =>
    concat(
      facts.map((fact) => {
        const keys = rowKeys(open, factRows(tokenizer, fact, contexts, at));
        return mean(keys, { axes: 0, keepDims: true });
      }),
    ),
  );
}

/**
 * Along which directions edits are written: u_j with u_j . key_j = 1, as small as can be on usual keys, C^-1 key_j but
 * for its length; `together`, each is also 0 on the other facts' keys: (K^T C^-1 K)^-1 (C^-1 K)^T.
 *
 * keys [n, F]; result [n, F].
 */
export function editDirections(covariance: Tensor, keys: Tensor, together: boolean): Tensor {
  return keys.gpu.scope(() => {
    const dual = (some: Tensor): Tensor => {
      const u = spdSolve(covariance, transpose(some));
      return spdSolve(matmul(some, u), transpose(u));
    };
    const [n = 0] = keys.shape;
    if (together || n === 1) return dual(keys);
    return concat(Array.from({ length: n }, (_, i) => dual(slice(keys, { axis: 0, start: i, end: i + 1 }))));
  });
}
