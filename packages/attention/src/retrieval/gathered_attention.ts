import {
  applyOp,
  defineKernel,
  expectDType,
  expectShape,
  grid1d,
  groupBy,
  number,
  rowVariant,
  schema,
  ShapeError,
  type Config,
  type Kernel,
  type RowVariant,
  type Tensor,
} from "@x/kernels";
import { emptyRows } from "../engine/lse.js";
import {
  gatheredBackwardKeys,
  gatheredBackwardQuery,
  gatheredFlatten,
  gatheredForward,
  gatheredParams,
  piece,
} from "./gathered_attention.wgsl.js";

const forwardKernel: Kernel<RowVariant> = defineKernel({
  name: "gatheredAttention",
  bindings: (v: RowVariant) => ({
    q: `read ${piece(v)}` as const,
    keys: `read ${piece(v)}` as const,
    values: `read ${piece(v)}` as const,
    indices: "read i32" as const,
    out: `write ${piece(v)}` as const,
    weights: "read_write f32" as const,
    lse: "write f32" as const,
  }),
  params: gatheredParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: gatheredForward,
});
const queryKernel: Kernel<RowVariant & { lse: boolean }> = defineKernel({
  name: "gatheredAttentionBackwardQuery",
  bindings: (v: RowVariant & { lse: boolean }) => ({
    dout: `read ${piece(v)}` as const,
    keys: `read ${piece(v)}` as const,
    values: `read ${piece(v)}` as const,
    indices: "read i32" as const,
    weights: "read f32" as const,
    ...(v.lse ? { dlse: "read f32" as const } : {}),
    dq: `write ${piece(v)}` as const,
    dscores: "read_write f32" as const,
  }),
  params: gatheredParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: gatheredBackwardQuery,
});
const flattenKernel: Kernel<undefined> = defineKernel({
  name: "gatheredAttentionRows",
  bindings: { indices: "read i32", rows: "write i32" },
  params: gatheredParams,
  wgsl: gatheredFlatten,
});
const keysKernel: Kernel<undefined> = defineKernel({
  name: "gatheredAttentionBackwardKeys",
  bindings: {
    coefficients: "read f32",
    x: "read f32",
    offsets: "read u32",
    order: "read u32",
    out: "write f32",
  },
  params: { k: "u32", dim: "u32", count: "u32", factor: "f32" },
  wgsl: gatheredBackwardKeys,
});

const OPTIONS = schema("gatheredAttention", {
  scale: number("Factor of q.k.", { defaultDoc: "headDim^-0.5" }),
});

/**
 * Attention over a list of keys per query: out_i = softmax_t(scale q_i . k_{idx(i,t)}) v_{idx(i,t)}; entries below 0
 * are not there, and a row without any gives zeros and lse -inf. Nothing is copied per query, and the gradients of
 * keys and values are added in a fixed order.
 *
 * q f32 [batch, heads, queries, headDim], keys [batch, kvHeads, keys, headDim], values [batch, kvHeads, keys,
 * valueDim], indices i32 [batch, heads, queries, k]; gives out [batch, heads, queries, valueDim] and lse.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function gatheredAttention(
  q: Tensor,
  keys: Tensor,
  values: Tensor,
  indices: Tensor,
  options: Config<typeof OPTIONS> = {},
): { out: Tensor; lse: Tensor } {
  const { name: who } = OPTIONS;
  const { scale: given } = OPTIONS.read(options);
  const names = expectShape(who, "q", q, ["batch", "heads", "queries", "headDim"]);
  expectShape(who, "keys", keys, ["batch", "kvHeads", "keys", "headDim"], names);
  expectShape(who, "values", values, ["batch", "kvHeads", "keys", "valueDim"], names);
  expectShape(who, "indices", indices, ["batch", "heads", "queries", "k"], names);
  const n = names as Record<
    "batch" | "heads" | "queries" | "headDim" | "kvHeads" | "keys" | "valueDim" | "k",
    number
  >;
  if (n.kvHeads === 0 || n.heads % n.kvHeads !== 0)
    throw new ShapeError(
      who,
      `q has ${n.heads} heads, keys ${n.kvHeads}; the first must be a multiple of the second`,
    );
  for (const [name, t] of Object.entries({ q, keys, values })) expectDType(who, name, t, "f32");
  expectDType(who, "indices", indices, "i32");
  const scale = given ?? n.headDim ** -0.5;
  const { gpu } = q;
  const rows = n.batch * n.heads * n.queries;
  const variant = rowVariant(q, n.headDim % 4 === 0 && n.valueDim % 4 === 0 ? 4 : 1);
  const unit = variant.vec ? 4 : 1;
  const params = {
    rows,
    heads: n.heads,
    kv_heads: n.kvHeads,
    queries: n.queries,
    keys: n.keys,
    k: n.k,
    pieces: n.headDim / unit,
    value_pieces: n.valueDim / unit,
    scale,
  };
  return gpu.scope(() => {
    const [out, lse] = applyOp({
      name: who,
      inputs: [q, keys, values, indices],
      forward: () => {
        const result = gpu.empty([n.batch, n.heads, n.queries, n.valueDim]);
        const weights = gpu.empty(indices.shape);
        const sums = gpu.empty([n.batch, n.heads, n.queries]);
        gpu.run(forwardKernel, {
          variant,
          bindings: { q, keys, values, indices, out: result, weights, lse: sums },
          params,
          workgroups: grid1d(rows),
        });
        return { outputs: [result, sums], saved: [weights] };
      },
      backward: ({ grads, saved, needs }) => {
        const weights = saved[0]!;
        const dout = grads[0] ?? gpu.zeros([n.batch, n.heads, n.queries, n.valueDim]);
        const dlse = grads[1];
        const dq = gpu.empty(q.shape);
        const dscores = gpu.empty(indices.shape);
        gpu.run(queryKernel, {
          variant: { ...variant, lse: dlse !== undefined },
          bindings: { dout, keys, values, indices, weights, dlse, dq, dscores },
          params,
          workgroups: grid1d(rows),
        });
        if (!needs[1] && !needs[2]) return [dq];
        const places = gpu.empty(indices.shape, "i32");
        gpu.run(flattenKernel, {
          bindings: { indices, rows: places },
          params,
          workgroups: grid1d(Math.ceil(indices.size / 64)),
        });
        const { offsets, order } = groupBy(places, n.batch * n.kvHeads * n.keys);
        const collect = (coefficients: Tensor, x: Tensor, like: Tensor, factor: number): Tensor => {
          const gradient = gpu.empty(like.shape);
          gpu.run(keysKernel, {
            bindings: { coefficients, x, offsets, order, out: gradient },
            params: { k: n.k, dim: like.shape[3]!, count: gradient.size, factor },
            workgroups: grid1d(Math.ceil(gradient.size / 64)),
          });
          return gradient;
        };
        return [
          dq,
          needs[1] ? collect(dscores, q, keys, scale) : undefined,
          needs[2] ? collect(weights, dout, values, 1) : undefined,
        ];
      },
    }) as [Tensor, Tensor];
    return { out, lse: emptyRows(lse, -Infinity) };
  });
}
