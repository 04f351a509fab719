import { groupMain, rowPrelude, type ParamType, type RowVariant, flatMain } from "@x/kernels";

/*
 * Attention of each query over the k keys that `indices` names.
 *
 * - `gatheredForward` and `gatheredBackwardQuery`: a workgroup (a subgroup of fixed size, else 64
 *   invocations) owns one query row of one head; an invocation every WIDTH-th key of it, then every WIDTH-th
 *   piece of features. Grid: rows workgroups.
 * - `gatheredFlatten`: an invocation owns one entry of the indices; rows * k invocations in workgroups of 64.
 * - `gatheredBackwardKeys`: an invocation owns one element of the gradient; workgroups of 64.
 *
 * Bindings, f32 but for the integers: q, dq [batch, heads, queries, dim]; keys [batch, kvHeads, keys, dim];
 * values [batch, kvHeads, keys, valueDim]; out, dout [batch, heads, queries, valueDim]; indices
 * [batch, heads, queries, k] i32, outside 0..keys-1 for none; weights, dscores, coefficients of the shape of
 * indices; lse, dlse [batch, heads, queries]; rows of the shape of indices, i32; x is q or dout; offsets
 * [batch * kvHeads * keys + 1] and order [rows * k], u32: the entries sorted by key.
 */

/** Storage element of heads' features. */
export const piece = (v: RowVariant): string => (v.vec ? "vec4<f32>" : "f32");

export const gatheredParams: Record<string, ParamType> = {
  rows: "u32",
  heads: "u32",
  kv_heads: "u32",
  queries: "u32",
  keys: "u32",
  k: "u32",
  pieces: "u32",
  value_pieces: "u32",
  scale: "f32",
};

/** A group of lanes owns one query row (batch, head, query); `key_row(t)` is where its t-th key lies, or NONE. */
const head = (v: RowVariant): string => /* wgsl */ `
${rowPrelude(v)}
const NONE = 0xffffffffu;
fn key_row(row: u32, t: u32) -> u32 {
  let at = indices[row * params.k + t];
  if (at < 0 || u32(at) >= params.keys) { return NONE; }
  let h = row / params.queries % params.heads;
  let b = row / params.queries / params.heads;
  return (b * params.kv_heads + h / (params.heads / params.kv_heads)) * params.keys + u32(at);
}
${groupMain("row", "params.rows", v.lanes || 64)}
  let first = row * params.k;`;

/** weights [rows, k] (the softmax), lse [rows] (3e38 for an empty row), out [rows, valueDim]. */
export const gatheredForward = (v: RowVariant): string => /* wgsl */ `
${head(v)}
  var high = -3.0e38;
  for (var t = lane; t < params.k; t += WIDTH) {
    let at = key_row(row, t);
    var s = -3.0e38;
    if (at != NONE) {
      var dot_ = T();
      for (var d = 0u; d < params.pieces; d++) { dot_ = fma(q[row * params.pieces + d], keys[at * params.pieces + d], dot_); }
      s = params.scale * fold_sum(dot_);
      high = max(high, s);
    }
    weights[first + t] = s;
  }
  high = row_max(high, lane);
  var total = 0.0;
  for (var t = lane; t < params.k; t += WIDTH) {
    let s = weights[first + t];
    let p = select(exp(s - high), 0.0, s <= -3.0e38);
    weights[first + t] = p;
    total += p;
  }
  total = row_sum(total, lane);
  let inverse = select(0.0, 1.0 / total, total > 0.0);
  for (var t = lane; t < params.k; t += WIDTH) { weights[first + t] *= inverse; }
  if (lane == 0u) { lse[row] = select(3.0e38, high + log(total), total > 0.0); }
  storageBarrier();
  for (var d = lane; d < params.value_pieces; d += WIDTH) {
    var sum = T();
    for (var t = 0u; t < params.k; t++) {
      let at = key_row(row, t);
      if (at != NONE) { sum = fma(T(weights[first + t]), values[at * params.value_pieces + d], sum); }
    }
    out[row * params.value_pieces + d] = sum;
  }
}`;

/** ds_t = p_t (dout . v_t - sum_u p_u dout . v_u + dlse); dq = scale sum_t ds_t k_t. */
export const gatheredBackwardQuery = (v: RowVariant & { lse: boolean }): string => /* wgsl */ `
${head(v)}
  var delta = 0.0;
  for (var t = lane; t < params.k; t += WIDTH) {
    let at = key_row(row, t);
    var dp = 0.0;
    if (at != NONE) {
      var dot_ = T();
      for (var d = 0u; d < params.value_pieces; d++) { dot_ = fma(dout[row * params.value_pieces + d], values[at * params.value_pieces + d], dot_); }
      dp = fold_sum(dot_);
    }
    dscores[first + t] = dp;
    delta = fma(weights[first + t], dp, delta);
  }
  delta = row_sum(delta, lane)${v.lse ? " - dlse[row]" : ""};
  for (var t = lane; t < params.k; t += WIDTH) {
    let p = weights[first + t];
    dscores[first + t] = select(0.0, p * (dscores[first + t] - delta), p > 0.0);
  }
  storageBarrier();
  for (var d = lane; d < params.pieces; d += WIDTH) {
    var sum = T();
    for (var t = 0u; t < params.k; t++) {
      let at = key_row(row, t);
      if (at != NONE) { sum = fma(T(dscores[first + t]), keys[at * params.pieces + d], sum); }
    }
    dq[row * params.pieces + d] = params.scale * sum;
  }
}`;

/** rows[e]: the row of keys that entry e of the indices means, or -1. */
export const gatheredFlatten = (): string => /* wgsl */ `
${flatMain("i", "params.rows * params.k")}
  let at = indices[i];
  let row = i / params.k;
  let h = row / params.queries % params.heads;
  let b = row / params.queries / params.heads;
  let base = (b * params.kv_heads + h / (params.heads / params.kv_heads)) * params.keys;
  rows[i] = select(i32(base) + at, -1, at < 0 || u32(at) >= params.keys);
}`;

/** out[key, d] = factor * sum over the entries e of that key of coefficients[e] x[row of e, d], in increasing e. */
export const gatheredBackwardKeys = (): string => /* wgsl */ `
${flatMain("i", "params.count")}
  let key = i / params.dim;
  let d = i % params.dim;
  var sum = 0.0;
  for (var n = offsets[key]; n < offsets[key + 1u]; n++) {
    let entry = order[n];
    sum = fma(coefficients[entry], x[entry / params.k * params.dim + d], sum);
  }
  out[i] = params.factor * sum;
}`;
