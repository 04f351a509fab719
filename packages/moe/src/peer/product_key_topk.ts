import {
  applyOp,
  defineKernel,
  expectInteger,
  expectTensors,
  grid1d,
  integer,
  matmul,
  schema,
  ShapeError,
  showShape,
  slice,
  topk,
  transpose,
  type Config,
  type Tensor,
  flatMain,
} from "@x/kernels";

export interface ProductKeyResult {
  /** [batch, seq, heads, topK], the best first. */
  readonly scores: Tensor;
  /** i32 [batch, seq, heads, topK]: i n + j. */
  readonly indices: Tensor;
}

/**
 * The K best of the sums of two sorted lists of K, one thread a row. In falling lists the pair (a, b) is among the K
 * best only if (a + 1)(b + 1) <= K, which leaves about K ln K sums. `picks` remembers a K + b.
 */
const pairsKernel = defineKernel({
  name: "productKeyPairs",
  bindings: {
    first: "read f32",
    firstIndex: "read i32",
    second: "read f32",
    secondIndex: "read i32",
    scores: "write f32",
    indices: "write i32",
    picks: "write u32",
  },
  params: { rows: "u32", n: "u32" },
  wgsl: (v: { readonly k: number }) => /* wgsl */ `
const K = ${String(v.k)}u;
${flatMain("row", "params.rows")}
  let base = row * K;
  var score: array<f32, K>;
  var index: array<u32, K>;
  var pick: array<u32, K>;
  var held = 0u;
  for (var a = 0u; a < K; a++) {
    for (var b = 0u; (a + 1u) * (b + 1u) <= K; b++) {
      let s = first[base + a] + second[base + b];
      let at = u32(firstIndex[base + a]) * params.n + u32(secondIndex[base + b]);
      if (held == K && (s < score[K - 1u] || (s == score[K - 1u] && at > index[K - 1u]))) { continue; }
      var j = min(held, K - 1u);
      while (j > 0u && (s > score[j - 1u] || (s == score[j - 1u] && at < index[j - 1u]))) {
        score[j] = score[j - 1u];
        index[j] = index[j - 1u];
        pick[j] = pick[j - 1u];
        j--;
      }
      score[j] = s;
      index[j] = at;
      pick[j] = a * K + b;
      held = min(held + 1u, K);
    }
  }
  for (var j = 0u; j < K; j++) {
    scores[base + j] = score[j];
    indices[base + j] = i32(index[j]);
    picks[base + j] = pick[j];
  }
}`,
});

const pairsBackwardKernel = defineKernel({
  name: "productKeyPairsBackward",
  bindings: { grad: "read f32", picks: "read u32", first: "write f32", second: "write f32" },
  params: { rows: "u32" },
  wgsl: (v: { readonly k: number }) => /* wgsl */ `
const K = ${String(v.k)}u;
${flatMain("i", "params.rows * K")}
  let base = i / K * K;
  let own = i % K;
  var a = 0.0;
  var b = 0.0;
  for (var j = 0u; j < K; j++) {
    let pick = picks[base + j];
    a += select(0.0, grad[base + j], pick / K == own);
    b += select(0.0, grad[base + j], pick % K == own);
  }
  first[i] = a;
  second[i] = b;
}`,
});

interface Best {
  readonly values: Tensor;
  readonly indices: Tensor;
}

/** Best sums of two lists [rows, k] of falling scores with their positions. */
function bestPairs(first: Best, second: Best, n: number): ProductKeyResult {
  const { gpu } = first.values;
  const [rows, k] = first.values.shape as [number, number];
  const [scores, indices] = applyOp({
    name: "productKeyPairs",
    inputs: [first.values, second.values, first.indices, second.indices],
    forward: () => {
      const out = gpu.empty([rows, k]);
      const at = gpu.empty([rows, k], "i32");
      const picks = gpu.empty([rows, k], "u32");
      gpu.run(pairsKernel, {
        variant: { k },
        bindings: {
          first: first.values,
          firstIndex: first.indices,
          second: second.values,
          secondIndex: second.indices,
          scores: out,
          indices: at,
          picks,
        },
        params: { rows, n },
        workgroups: grid1d(Math.ceil(rows / 64)),
      });
      return { outputs: [out, at], saved: [picks] };
    },
    backward: ({ grads, saved }) => {
      if (!grads[0]) return [];
      const [da, db] = [gpu.empty([rows, k]), gpu.empty([rows, k])];
      gpu.run(pairsBackwardKernel, {
        variant: { k },
        bindings: { grad: grads[0], picks: saved[0]!, first: da, second: db },
        params: { rows },
        workgroups: grid1d(Math.ceil((rows * k) / 64)),
      });
      return [da, db];
    },
  });
  return { scores: scores!, indices: indices! };
}

const OPTIONS = schema("productKeyTopk", {
  topK: integer("Keys to find for each query.", { min: 1 }),
});
export type ProductKeyOptions = Config<typeof OPTIONS>;

/** Largest K: the lists of a thread stay in registers or private memory. */
const MAX_K = 64;

/**
 * Product keys: the K best of n^2 keys, whose scores are sums of one of n scores of each half of the query, from 2 n
 * products and about K ln K sums. Exact: equals the top-K of all n^2 sums, the lower index first among equals.
 *
 * query [batch, seq, heads, 2 d]; keys [2, n, d], shared by the heads, or [heads, 2, n, d]; K <= n and K <= 64.
 * Lample et al. 2019, arXiv:1907.05242, section 3.1.
 *
 * @throws ShapeError, ConfigError
 */
export function productKeyTopk(query: Tensor, keys: Tensor, options: ProductKeyOptions): ProductKeyResult {
  const who = OPTIONS.name;
  expectTensors(who, { query, keys });
  const { topK } = OPTIONS.read(options);
  const [heads, width] = query.shape.slice(-2) as [number, number];
  const [halves, n, d] = keys.shape.slice(-3) as [number, number, number];
  const own = keys.rank === 4;
  if (
    query.rank < 3 ||
    (keys.rank !== 3 && !own) ||
    halves !== 2 ||
    2 * d !== width ||
    (own && keys.shape[0] !== heads)
  )
    throw new ShapeError(
      who,
      `query has shape ${showShape(query.shape)}, keys ${showShape(keys.shape)}; they must be [..., heads, 2 d] and [2, n, d] or [heads, 2, n, d]`,
    );
  expectInteger(who, "topK", topK, 1, Math.min(n, MAX_K));
  const tokens = query.size / (heads * width);
  return query.gpu.scope(() => {
    // [heads, tokens, 2 d] where heads have keys of their own, else all rows at once.
    const rows = own
      ? transpose(query.reshape([tokens, heads, width]), [1, 0, 2])
      : query.reshape([tokens * heads, width]);
    const half = (at: number): Best => {
      const q = slice(rows, { axis: -1, start: at * d, end: (at + 1) * d });
      const key = slice(keys, { axis: -3, start: at, end: at + 1 }).reshape(own ? [heads, n, d] : [n, d]);
      const best = topk(matmul(q, key, { transposeB: true }), topK);
      const flat = [tokens * heads, topK];
      return { values: best.values.reshape(flat), indices: best.indices.reshape(flat) };
    };
    const best = bestPairs(half(0), half(1), n);
    const shape = [...query.shape.slice(0, -1), topK];
    const back = (t: Tensor): Tensor =>
      own ? transpose(t.reshape([heads, tokens, topK]), [1, 0, 2]).reshape(shape) : t.reshape(shape);
    return { scores: back(best.scores), indices: back(best.indices) };
  });
}
