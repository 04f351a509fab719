import {
  broadcastTo,
  cumsum,
  e,
  elementwise,
  matmul,
  mul,
  pad,
  repeat,
  slice,
  transpose,
  type Tensor,
} from "@x/kernels";
import type { AttentionLayout } from "../../engine/options.js";
import { matrixRecurrence } from "./matrix_recurrence.js";
import { deltaRecurrence, type RecurrenceInputs } from "./recurrence.js";
import { belowDiagonal, identity, toDiagonal, unitLowerInverse } from "./unit_lower_inverse.js";

const exponential = elementwise("decaySince", ["c"], (c) => e.exp(c));
const erasing = elementwise(
  "beta k k' below the diagonal",
  ["beta", "pairs", "decay", "mask"],
  (beta, pairs, decay, mask) => e.select(mask, e.mul(e.mul(beta, pairs), decay), 0),
);
const lower = elementwise("pairs to the diagonal", ["pairs", "decay", "mask"], (pairs, decay, mask) =>
  e.select(mask, e.mul(pairs, decay), 0),
);
const product3 = elementwise("x y z", ["x", "y", "z"], (x, y, z) => e.mul(e.mul(x, y), z));
const onDiagonal = elementwise("diagonal minus", ["gain", "eye", "x"], (gain, eye, x) =>
  e.sub(e.select(eye, gain, 0), x),
);

/** How what one token writes has faded where another one reads, inside each chunk; 1 where nothing fades. */
interface Decays {
  /** e^(c_i - c_j) for j <= i [.., chunk, chunk]; of channels it is part of the pairs. */
  readonly between: Tensor | number;
  /** e^(c_i), from the state before the chunk to token i: [.., chunk, 1 or dim]. */
  readonly since: Tensor | number;
  /** e^(c_last - c_j), from token j to the chunk's end: [.., chunk, 1 or dim]. */
  readonly until: Tensor | number;
  /** The decay of the whole chunk by rows of the state: [.., 1 or dim, 1]. */
  readonly whole: Tensor | number;
  /** [.., chunk, dim]: the log decays, where they are of channels. */
  readonly channels?: Tensor;
}

/**
 * scale sum_d x_i,d y_j,d e^(c_i,d - c_j,d) for j <= i, else 0: [.., chunk, chunk]. The recurrence without erasing computes
 * it as the output for the values 1 in row j and column j, by products of decays: no exponential of a sum is formed.
 *
 * x, y [.., chunk, dim], g [.., chunk, dim or 1]; the axes before them broadcast.
 */
function decayedPairs(x: Tensor, y: Tensor, g: Tensor, scale: number): Tensor {
  const outer = x.shape.slice(0, -2).map((n, i) => Math.max(n, y.shape[i]!, g.shape[i]!));
  const count = outer.reduce((a, b) => a * b, 1);
  const chunk = x.shape.at(-2)!;
  const flat = (t: Tensor): Tensor =>
    broadcastTo(t, [...outer, chunk, t.shape.at(-1)!]).reshape([count, 1, chunk, t.shape.at(-1)!]);
  const v = broadcastTo(identity(x.gpu, chunk), [count, 1, chunk, chunk]);
  const { out } = deltaRecurrence(
    "decayedPairs",
    { q: flat(x), k: flat(y), v, g: flat(g), beta: undefined, state: undefined },
    { scale, layout: "bhsd" },
  );
  return out.reshape([...outer, chunk, chunk]);
}

/** The decays of g [.., chunk, 1 or dim]. */
function decaysOf(g: Tensor | undefined): Decays {
  if (!g) return { between: 1, since: 1, until: 1, whole: 1 };
  const axis = g.rank - 2;
  const since = exponential(cumsum(g, { axis }));
  const until = exponential(cumsum(g, { axis, reverse: true, exclusive: true }));
  const whole = transpose(slice(since, { axis, start: g.shape[axis]! - 1 }));
  if (g.shape.at(-1)! > 1) return { between: 1, since, until, whole, channels: g };
  const one = g.gpu.full(g.shape, 1);
  return { between: decayedPairs(one, one, g, 1), since, until, whole };
}

/**
 * The delta rule by chunks, in the WY form: inside a chunk of C tokens the values that enter are the solution of a triangular
 * system, so that all chunks are computed at once, and a short recurrence passes the state from chunk to chunk. With c the
 * cumulative sums of g in a chunk, G_ij = e^(c_i - c_j) and S the state before it,
 *
 *   A_ij = beta_i (k_i . k_j) G_ij for j < i, T = (I + A)^-1, W = T diag(beta e^c) K, U = T diag(beta) V - W S,
 *   out = scale (diag(e^c) Q S + (Q K^T * G) U), S' = e^(c_C) S + (diag(e^(c_C - c)) K)^T U.
 *
 * S' is linear in S, so the recurrence is one of matrices. Without beta nothing is erased: U = V, W = 0. Inputs and heads are those of
 * `deltaRecurrence`.
 * Yang et al. 2024, arXiv:2406.06484, section 3; arXiv:2412.06464, section 3.3.
 */
export function chunkwiseMemory(
  inputs: RecurrenceInputs,
  {
    scale,
    layout,
    chunk,
  }: { readonly scale: number; readonly layout: AttentionLayout; readonly chunk: number },
): { out: Tensor; state: Tensor } {
  const { gpu } = inputs.v;
  const [token, head] = layout === "bhsd" ? [2, 1] : [1, 2];
  const tokens = inputs.v.shape[token]!;
  const chunks = Math.ceil(tokens / chunk);
  /** [batch, heads, chunks, chunk, ..]; tokens behind the end are 0, so that they neither write, erase nor fade. */
  const cut = (t: Tensor): Tensor => {
    const turned = layout === "bhsd" ? t : transpose(t, [0, 2, 1, 3].slice(0, t.rank));
    const filled = pad(turned, 2, 0, chunks * chunk - tokens);
    return filled.reshape([...filled.shape.slice(0, 2), chunks, chunk, ...filled.shape.slice(3)]);
  };
  /** The heads as [shared, heads of each]. */
  const grouped = (t: Tensor, groups: number): Tensor =>
    t.reshape([t.shape[0]!, groups, t.shape[1]! / groups, ...t.shape.slice(2)]);
  const [batch, heads] = [inputs.v.shape[0]!, inputs.v.shape[head]!];
  const [queryHeads, keyHeads] = [inputs.q.shape[head]!, inputs.k.shape[head]!];
  const [q, k, v] = [cut(inputs.q), cut(inputs.k), cut(inputs.v)];
  const beta = inputs.beta && cut(inputs.beta);
  const g = inputs.g && cut(inputs.g);
  const decays = decaysOf(g && (g.rank === 4 ? g.reshape([...g.shape, 1]) : g));
  const [dim, valueDim] = [q.shape.at(-1)!, v.shape.at(-1)!];

  /** Decays beside tensors whose heads are grouped. */
  const beside = (groups: number): Decays => {
    const part = (t: Tensor | number): Tensor | number => (typeof t === "number" ? t : grouped(t, groups));
    const { between, since, until, whole } = decays;
    return {
      ...{ between: part(between), since: part(since), until: part(until), whole: part(whole) },
      ...(decays.channels ? { channels: grouped(decays.channels, groups) } : {}),
    };
  };
  const pairs = (x: Tensor, y: Tensor, d: Decays, alpha = 1): Tensor =>
    d.channels ? decayedPairs(x, y, d.channels, alpha) : matmul(x, y, { transposeB: true, alpha });

  const byKey = beside(keyHeads);
  const [keys, values] = [grouped(k, keyHeads), grouped(v, keyHeads)];
  const rates = beta && grouped(beta.reshape([...beta.shape, 1]), keyHeads);
  const inverse =
    rates &&
    unitLowerInverse(erasing(rates, pairs(keys, keys, byKey), byKey.between, belowDiagonal(gpu, chunk)));
  const erased = inverse && matmul(inverse, product3(keys, rates, byKey.since)); // W
  const written = inverse ? matmul(inverse, mul(values, rates)) : values;
  const left = mul(keys, byKey.until);
  const merged = (t: Tensor): Tensor => t.reshape([batch, heads, ...t.shape.slice(3)]);
  const forgotten = erased ? matmul(left, erased, { transposeA: true }) : 0;
  const { states, last } = matrixRecurrence(
    merged(onDiagonal(byKey.whole, identity(gpu, dim), forgotten)),
    merged(matmul(left, written, { transposeA: true })),
    inputs.state,
  );
  const enters = merged(
    erased ? matmul(erased, grouped(states, keyHeads), { alpha: -1, residual: written }) : written,
  ); // U

  const groups = Math.min(queryHeads, heads);
  const byQuery = beside(groups);
  const queries = grouped(q, groups);
  const read = grouped(
    keyHeads === groups || keyHeads === heads ? k : repeat(k, heads / keyHeads, 1),
    groups,
  );
  const seen = lower(pairs(queries, read, byQuery, scale), byQuery.between, toDiagonal(gpu, chunk));
  const inside = matmul(seen, grouped(enters, groups));
  const out = matmul(product3(queries, byQuery.since, scale), grouped(states, groups), { residual: inside });
  const joined = out.reshape([batch, Math.max(heads, queryHeads), chunks * chunk, valueDim]);
  const whole = slice(joined, { axis: 2, end: tokens });
  return { out: layout === "bhsd" ? whole : transpose(whole, [0, 2, 1, 3]), state: last };
}
