import {
  groupMain,
  defineKernel,
  expectDType,
  expectInteger,
  expectShape,
  grid1d,
  integer,
  matmul,
  noGrad,
  schema,
  ShapeError,
  slice,
  tensor,
  type Config,
  type Kernel,
  type Tensor,
} from "@x/kernels";

/** The best entries of each query in increasing order of position; missing ones are -1 with score -inf. */
export interface SearchResult {
  /** i32 [..., queries, k] */
  readonly indices: Tensor;
  /** f32 [..., queries, k]: inner products. */
  readonly scores: Tensor;
}

interface SelectVariant {
  readonly keyMask: boolean;
}

/**
 * A workgroup merges one row of a block's scores into the row's best k so far: the k-th largest is found byte by byte
 * (a radix select with counts in workgroup memory), then the winners are copied in order, equal ones first come first
 * served. Candidates are the k held ones, which have lower positions, and then the block's.
 */
const selectKernel: Kernel<SelectVariant> = defineKernel({
  name: "topkSearchSelect",
  bindings: (v: SelectVariant) => ({
    scores: "read f32" as const,
    held_scores: "read f32" as const,
    held_indices: "read i32" as const,
    ...(v.keyMask ? { key_mask: "read i32" as const } : {}),
    best_scores: "write f32" as const,
    best_indices: "write i32" as const,
  }),
  params: {
    rows: "u32",
    width: "u32",
    k: "u32",
    /** Position of the block's first key, rows of queries that share a row of the mask, and the mask's length. */
    base: "u32",
    mask_rows: "u32",
    keys: "u32",
  },
  wgsl: (v) => /* wgsl */ `
var<workgroup> counts: array<atomic<u32>, 256>;
var<workgroup> above: array<u32, 64>;
var<workgroup> equal: array<u32, 64>;
var<workgroup> prefix: u32;
var<workgroup> open: u32;
fn score_at(row: u32, c: u32) -> f32 {
  if (c < params.k) { return held_scores[row * params.k + c]; }
  return scores[row * params.width + c - params.k];
}
// Order-preserving number of a candidate; 0: it is not there.
fn key_at(row: u32, c: u32) -> u32 {
  if (c < params.k) {
    if (held_indices[row * params.k + c] < 0) { return 0u; }
  } else {
    ${v.keyMask ? "if (key_mask[row / params.mask_rows * params.keys + params.base + c - params.k] == 0) { return 0u; }" : ""}
  }
  let x = score_at(row, c);
  let bits = bitcast<u32>(select(x, 0.0, x == 0.0));
  return max(select(bits | 0x80000000u, ~bits, bits >= 0x80000000u), 1u);
}
${groupMain("row", "params.rows")}
  let total = params.k + params.width;
  if (lane == 0u) { prefix = 0u; open = params.k; }
  for (var shift = 24i; shift >= 0i; shift -= 8i) {
    for (var i = lane; i < 256u; i += 64u) { atomicStore(&counts[i], 0u); }
    workgroupBarrier();
    let known = select(0xffffffffu << u32(shift + 8), 0u, shift == 24i);
    for (var c = lane; c < total; c += 64u) {
      let key = key_at(row, c);
      if (key != 0u && (key & known) == prefix) { atomicAdd(&counts[(key >> u32(shift)) & 255u], 1u); }
    }
    workgroupBarrier();
    if (lane == 0u) {
      // The byte in which the k-th largest lies. With fewer than k candidates all bytes end as 0, below every key.
      var left = open;
      var byte = 0u;
      for (var b = 255i; b >= 1i; b--) {
        let n = atomicLoad(&counts[b]);
        if (n >= left) { byte = u32(b); break; }
        left -= n;
      }
      prefix |= byte << u32(shift);
      open = left;
    }
    workgroupBarrier();
  }
  let kth = prefix;
  let ties = open;
  let share = (total + 63u) / 64u;
  let from_ = min(lane * share, total);
  let to = min(from_ + share, total);
  var n_above = 0u;
  var n_equal = 0u;
  for (var c = from_; c < to; c++) {
    let key = key_at(row, c);
    n_above += select(0u, 1u, key > kth);
    n_equal += select(0u, 1u, key == kth && key != 0u);
  }
  above[lane] = n_above;
  equal[lane] = n_equal;
  workgroupBarrier();
  var before = 0u;
  var seen = 0u;
  for (var l = 0u; l < lane; l++) { before += above[l]; seen += equal[l]; }
  for (var c = from_; c < to; c++) {
    let key = key_at(row, c);
    let tie = key == kth && key != 0u;
    if (key > kth || (tie && seen < ties)) {
      let at = row * params.k + before + min(seen, ties);
      best_scores[at] = score_at(row, c);
      if (c < params.k) { best_indices[at] = held_indices[row * params.k + c]; }
      else { best_indices[at] = i32(params.base + c - params.k); }
    }
    before += select(0u, 1u, key > kth);
    seen += select(0u, 1u, tie);
  }
  if (lane == 63u) {
    for (var i = before + min(seen, ties); i < params.k; i++) {
      best_scores[row * params.k + i] = bitcast<f32>(0xff800000u | (params.k & 0u));
      best_indices[row * params.k + i] = -1;
    }
  }
}`,
});

/** Scores of one block at most, in numbers: 32 MiB. */
const BLOCK_NUMBERS = 2 ** 23;

const OPTIONS = schema("topkSearch", {
  keyMask: tensor("i32 [batch, keys]: 1 is searched; batch divides groups.", { optional: true }),
  count: integer("Only the first `count` keys.", { min: 0, defaultDoc: "all" }),
  block: integer("Keys scored at a time.", { min: 1, defaultDoc: "as many as 32 MiB of scores allow" }),
});
export type TopkSearchOptions = Config<typeof OPTIONS>;

/**
 * Exact search for the largest inner products: a block of keys after the other is scored by a matmul and merged into
 * each query's best k, so that memory does not grow with the number of keys. Equal scores go to the lower position.
 *
 * queries f32 [groups, queries, dim], keys f32 [groups, keys, dim]; gives k' = min(k, keys) entries per query, in
 * increasing order of position. Not differentiable.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function topkSearch(
  queries: Tensor,
  keys: Tensor,
  k: number,
  options: TopkSearchOptions = {},
): SearchResult {
  const { name: who } = OPTIONS;
  const { keyMask, block: size, ...given } = OPTIONS.read(options);
  const names = expectShape(who, "queries", queries, ["groups", "queries", "dim"]);
  expectShape(who, "keys", keys, ["groups", "keys", "dim"], names);
  const { groups, queries: n, keys: all } = names as Record<"groups" | "queries" | "keys", number>;
  for (const [name, t] of Object.entries({ queries, keys })) expectDType(who, name, t, "f32");
  expectInteger(who, "k", k, 1);
  const { count = all } = given;
  expectInteger(who, "count", count, 0, all);
  if (keyMask) {
    const { batch } = expectShape(who, "keyMask", keyMask, ["batch", all]) as { batch: number };
    expectDType(who, "keyMask", keyMask, "i32");
    if (batch === 0 || groups % batch !== 0)
      throw new ShapeError(who, `keyMask has ${batch} rows; groups, ${groups}, must be a multiple of it`);
  }
  const rows = groups * n;
  const fits = Math.floor(BLOCK_NUMBERS / Math.max(1, rows) / 64) * 64;
  const block = size ?? Math.min(65536, Math.max(1024, fits));
  const wanted = Math.min(k, count);
  const { gpu } = queries;
  return gpu.scope(() =>
    noGrad(() => {
      const shape = [groups, n, wanted];
      let held: SearchResult = {
        indices: gpu.full(shape, -1, "i32"),
        scores: gpu.full(shape, -Infinity),
      };
      if (held.indices.size === 0) return held;
      for (let base = 0; base < count; base += block) {
        const before = held;
        held = gpu.scope(() => {
          const end = Math.min(count, base + block);
          const part = base === 0 && end === all ? keys : slice(keys, { axis: 1, start: base, end });
          const scores = matmul(queries, part, { transposeB: true });
          const next = { indices: gpu.empty(shape, "i32"), scores: gpu.empty(shape) };
          gpu.run(selectKernel, {
            variant: { keyMask: keyMask !== undefined },
            bindings: {
              scores,
              held_scores: before.scores,
              held_indices: before.indices,
              key_mask: keyMask,
              best_scores: next.scores,
              best_indices: next.indices,
            },
            params: {
              rows,
              width: end - base,
              k: wanted,
              base,
              mask_rows: keyMask ? (groups / keyMask.shape[0]!) * n : 1,
              keys: all,
            },
            workgroups: grid1d(rows),
          });
          return next;
        });
        before.indices.dispose();
        before.scores.dispose();
      }
      return held;
    }),
  );
}
