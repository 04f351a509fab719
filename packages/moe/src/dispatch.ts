import { applyOp, defineKernel, groupBy, grid1d, scatterAdd, type Kernel, type Tensor } from "@x/kernels";

/** Choices of experts, sorted by expert. */
export interface Dispatch {
  /** u32 [experts + 1] */
  readonly offsets: Tensor;
  /** i32 [choices]: token of each sorted row; -1 past the last. */
  readonly tokens: Tensor;
  /** i32 [choices]: choice (token * k + rank) of each sorted row; -1 past the last. */
  readonly choices: Tensor;
}

const rowsKernel: Kernel<undefined> = defineKernel({
  name: "dispatchRows",
  bindings: { order: "read u32", offsets: "read u32", tokens: "write i32", choices: "write i32" },
  params: { count: "u32", experts: "u32", k: "u32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= params.count) { return; }
  let used = i < offsets[params.experts];
  tokens[i] = select(-1, i32(order[i] / params.k), used);
  choices[i] = select(-1, i32(order[i]), used);
}`,
});

/** Sort choices [tokens, k] (i32, negative: none) by expert, outside the tape. */
export function dispatch(indices: Tensor, experts: number): Dispatch {
  const { gpu } = indices;
  const k = indices.shape.at(-1) ?? 1;
  const count = indices.size;
  const { offsets, order } = groupBy(indices, experts);
  const tokens = gpu.empty([count], "i32");
  const choices = gpu.empty([count], "i32");
  gpu.run(rowsKernel, {
    bindings: { order, offsets, tokens, choices },
    params: { count, experts, k },
    workgroups: grid1d(Math.ceil(count / 64)),
  });
  order.dispose();
  return { offsets, tokens, choices };
}

interface CombineVariant {
  readonly mode: "forward" | "rows" | "weights";
}

/**
 * out[t] = sum over the sorted rows r of token t of weight[choice r] y[r]. One thread per element walks the k rows of
 * its token through `where_`, the inverse of `choices`.
 */
const combineKernel: Kernel<CombineVariant> = defineKernel({
  name: "moeCombine",
  bindings: (v: CombineVariant) => ({
    ...(v.mode === "rows" ? { choices: "read i32" as const } : { where_: "read i32" as const }),
    ...(v.mode === "weights" ? {} : { weights: "read f32" as const }),
    ...(v.mode === "rows" ? {} : { y: "read f32" as const }),
    ...(v.mode === "forward" ? {} : { grad: "read f32" as const }),
    out: "write f32" as const,
  }),
  params: { count: "u32", dim: "u32", k: "u32" },
  wgsl: (v) => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= params.count) { return; }
  ${
    {
      forward: `let token = i / params.dim;
  var total = 0.0;
  for (var j = 0u; j < params.k; j++) {
    let row = where_[token * params.k + j];
    if (row >= 0) { total += weights[token * params.k + j] * y[u32(row) * params.dim + i % params.dim]; }
  }
  out[i] = total;`,
      rows: `let choice = choices[i / params.dim];
  out[i] = select(0.0, weights[max(choice, 0)] * grad[u32(max(choice, 0)) / params.k * params.dim + i % params.dim], choice >= 0);`,
      weights: `let row = where_[i];
  var total = 0.0;
  if (row >= 0) { for (var d = 0u; d < params.dim; d++) { total += y[u32(row) * params.dim + d] * grad[i / params.k * params.dim + d]; } }
  out[i] = total;`,
    }[v.mode]
  }
}`,
});

const inverseKernel: Kernel<undefined> = defineKernel({
  name: "dispatchInverse",
  bindings: { choices: "read i32", where_: "read_write i32" },
  params: { count: "u32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= params.count) { return; }
  if (choices[i] >= 0) { where_[choices[i]] = i32(i); }
}`,
});

/** Rows of the experts' results back to their tokens: out[t] = sum_k weights[t, k] y[row of (t, k)]. */
export function combine(y: Tensor, weights: Tensor, { choices }: Dispatch): Tensor {
  const { gpu } = y;
  const dim = y.shape.at(-1)!;
  const [tokens, k] = weights.shape as [number, number];
  const count = choices.size;
  const where = gpu.full([count], -1, "i32");
  gpu.run(inverseKernel, {
    bindings: { choices, where_: where },
    params: { count },
    workgroups: grid1d(Math.ceil(count / 64)),
  });
  const run = (
    mode: CombineVariant["mode"],
    shape: readonly number[],
    bindings: Record<string, Tensor>,
  ): Tensor => {
    const out = gpu.empty(shape);
    gpu.run(combineKernel, {
      variant: { mode },
      bindings: { ...bindings, ...(mode === "rows" ? { choices } : { where_: where }), out },
      params: { count: out.size, dim, k },
      workgroups: grid1d(Math.ceil(out.size / 64)),
    });
    return out;
  };
  return applyOp({
    name: "moeCombine",
    inputs: [y, weights, where, choices],
    forward: () => ({ outputs: [run("forward", [tokens, dim], { weights, y })] }),
    backward: ({ grads, needs }) => [
      needs[0] ? run("rows", y.shape, { weights, grad: grads[0]! }) : undefined,
      needs[1] ? run("weights", weights.shape, { y, grad: grads[0]! }) : undefined,
      undefined,
      undefined,
    ],
  })[0]!;
}

const zeroOutside: Kernel<undefined> = defineKernel({
  name: "dispatchGather",
  bindings: { x: "read f32", tokens: "read i32", out: "write f32" },
  params: { count: "u32", dim: "u32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= params.count) { return; }
  let token = tokens[i / params.dim];
  out[i] = select(0.0, x[u32(max(token, 0)) * params.dim + i % params.dim], token >= 0);
}`,
});

/** Tokens' rows in sorted order; rows past the last choice are zeros. */
export function gatherTokens(x: Tensor, { tokens }: Dispatch): Tensor {
  const { gpu } = x;
  const dim = x.shape.at(-1)!;
  const count = tokens.size * dim;
  return applyOp({
    name: "moeGather",
    inputs: [x, tokens],
    forward: () => {
      const out = gpu.empty([tokens.size, dim]);
      gpu.run(zeroOutside, {
        bindings: { x, tokens, out },
        params: { count, dim },
        workgroups: grid1d(Math.ceil(count / 64)),
      });
      return { outputs: [out] };
    },
    backward: ({ grads }) => [scatterAdd(grads[0]!, tokens, x.shape[0]!), undefined],
  })[0]!;
}
