import {
  applyOp,
  defineKernel,
  e,
  elementwise,
  expectTensor,
  grid1d,
  isTracked,
  sumMiddle,
  type Kernel,
  type Tensor,
} from "@x/kernels";
import {
  deltaBindings,
  deltaParams,
  deltaText,
  flashBackwardKey,
  flashBackwardQuery,
  keyBackwardBindings,
  queryBackwardBindings,
  type DeltaVariant,
} from "./wgsl/backward.wgsl.js";
import { collectKernel, linesOf, type Lines } from "./collect.js";
import { fold } from "./fold.js";
import { flashForward, forwardBindings, forwardParams } from "./wgsl/forward.wgsl.js";
import { emptyRows } from "./lse.js";
import type { AttentionOptions, AttentionResult } from "./options.js";
import { problemOf } from "./problem.js";
import { mergeBindings, mergeParams, mergeText, partsFor, type MergeVariant } from "./wgsl/split.wgsl.js";
import { termGradients, type Collect } from "./term_gradients.js";
import { flashParams, type FlashVariant } from "./wgsl/tile.wgsl.js";

const subgroups = (v: FlashVariant): boolean => v.lanes > 0;
const forwardKernel: Kernel<FlashVariant> = defineKernel({
  name: "attention",
  bindings: forwardBindings,
  params: forwardParams,
  subgroups,
  wgsl: flashForward,
});
const mergeKernel: Kernel<MergeVariant> = defineKernel({
  name: "attentionMerge",
  bindings: mergeBindings,
  params: mergeParams,
  wgsl: mergeText,
});
const queryKernel: Kernel<FlashVariant> = defineKernel({
  name: "attentionBackwardQuery",
  bindings: queryBackwardBindings,
  params: flashParams,
  subgroups,
  wgsl: flashBackwardQuery,
});
const keyKernel: Kernel<FlashVariant> = defineKernel({
  name: "attentionBackwardKey",
  bindings: keyBackwardBindings,
  params: flashParams,
  subgroups,
  wgsl: flashBackwardKey,
});
const deltaKernel: Kernel<DeltaVariant> = defineKernel({
  name: "attentionDelta",
  bindings: deltaBindings,
  params: deltaParams,
  wgsl: deltaText,
});
/** d sink = -sum over rows of exp(sink - lse) delta. */
const sinkGradient = elementwise("sinkGradient", ["sink", "lse", "delta"], (sink, lse, delta) =>
  e.neg(e.mul(e.exp(e.sub(sink, lse)), delta)),
);

/** The fused kernels: out, lse (3e38 for an empty row) and, if asked for, the sums of weights. */
function engine(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor[] {
  const { gpu } = q;
  const problem = problemOf(q, k, v, options);
  const { batch, heads, kvHeads, queries, valueDim, variant, params, extras, relatives } = problem;
  const o_stride = params["o_stride"]!;
  const { bias, sinks, weightSums } = options;
  const rows = batch * heads * queries;
  const sumsTable = weightSums?.table(gpu, ...problem.distances);
  const line = (kind: "row" | "column" | "dense"): Lines => linesOf(problem, kind);

  const limit = gpu.limits.maxStorageBuffersPerShaderStage;
  // Constants, which have no gradient, are listed so that they stay allocated until the backward has run.
  const inputs = [q, k, v, bias, sinks, ...relatives.map((r) => r.modifier.tensor), ...Object.values(extras)];
  // The keys are not split where a gradient or sums of weights are needed, nor where lists leave few tiles.
  const parts =
    isTracked(inputs) || weightSums || variant.lists
      ? 1
      : partsFor({
          workgroups: problem.queryTiles * kvHeads * batch,
          keys: problem.keysOfTile,
          software: gpu.info.software,
        });

  return applyOp({
    name: "attention",
    inputs,
    forward: () => {
      const out = gpu.empty([...q.shape.slice(0, 3), valueDim], q.dtype);
      const lse = gpu.empty([batch, heads, queries]);
      if (rows === 0) return { outputs: [out, lse] };
      const forward = (into: { out: Tensor; lse: Tensor }): void => {
        const own = fold(
          { ...variant, out: into.out.dtype },
          { ...extras, ...(sinks ? { sinks } : {}) },
          limit - 5,
        );
        gpu.run(forwardKernel, {
          variant: own.variant,
          bindings: { q, k, v, ...own.bindings, ...into },
          params: { ...params, ...own.params, parts, rows },
          workgroups: [problem.queryTiles, kvHeads, batch * parts],
        });
      };
      if (parts > 1) {
        const parts_out = gpu.empty([parts, rows, valueDim]);
        const parts_lse = gpu.empty([parts, rows]);
        forward({ out: parts_out, lse: parts_lse });
        gpu.run(mergeKernel, {
          variant: { out: out.dtype },
          bindings: { parts_out, parts_lse, out, lse },
          params: { o_stride, heads, queries, rows, value_dim: valueDim, parts },
          workgroups: grid1d(Math.ceil((rows * valueDim) / 64)),
        });
        return { outputs: [out, lse] };
      }
      forward({ out, lse });
      if (!sumsTable || !weightSums) return { outputs: [out, lse] };
      const sum = gpu.zeros([batch, heads, queries, weightSums.rows]);
      const { lines, workgroups } = line("row");
      const own = fold(variant, { ...extras, lse }, limit - 4);
      gpu.run(collectKernel, {
        variant: { ...own.variant, collect: "weights", line: "row", after: variant.terms.length },
        bindings: { q, k, ...own.bindings, line_index: sumsTable.tensor, sum },
        params: { ...params, ...own.params, line_rows: weightSums.rows, line_min: sumsTable.min, lines },
        workgroups,
      });
      return { outputs: [out, lse, sum] };
    },
    backward: ({ grads, outputs, needs }) => {
      const [out, lse, sums] = outputs as [Tensor, Tensor, Tensor | undefined];
      const dout = grads[0] ?? gpu.zeros(out.shape, out.dtype);
      const [dlse, dsums] = [grads[1], grads[2]];
      const delta = gpu.empty([batch, heads, queries]);
      gpu.run(deltaKernel, {
        variant: { out: out.dtype, sums: dsums !== undefined, lse: dlse !== undefined },
        bindings: {
          out,
          dout,
          delta,
          sums,
          sums_grad: dsums,
          dlse,
        },
        params: {
          o_stride,
          heads,
          queries,
          rows,
          value_dim: valueDim,
          sums_rows: weightSums?.rows ?? 0,
        },
        workgroups: grid1d(Math.ceil(rows / 64)),
      });
      const sumsBindings = dsums && sumsTable ? { sums_grad: dsums, sums_index: sumsTable.tensor } : {};
      const own = fold(
        { ...variant, weightSums: dsums !== undefined },
        { ...extras, lse, delta, ...sumsBindings },
        limit - 6,
      );
      const allParams = {
        ...params,
        ...own.params,
        sums_rows: weightSums?.rows ?? 0,
        sums_min: sumsTable?.min ?? 0,
      };
      const bindings = { q, k, v, dout, ...own.bindings };
      let dq: Tensor | undefined;
      let dk: Tensor | undefined;
      let dv: Tensor | undefined;
      if (needs[0]) {
        dq = gpu.empty(q.shape, q.dtype);
        gpu.run(queryKernel, {
          variant: own.variant,
          bindings: { ...bindings, dq },
          params: allParams,
          workgroups: [problem.queryTiles, kvHeads, batch],
        });
      }
      if (needs[1] || needs[2]) {
        dk = gpu.empty(k.shape, k.dtype);
        dv = gpu.empty(v.shape, v.dtype);
        gpu.run(keyKernel, {
          variant: own.variant,
          bindings: { ...bindings, dk, dv },
          params: allParams,
          workgroups: [problem.keyTiles, kvHeads, batch],
        });
      }
      const collect: Collect = (after, kind, shape, index) => {
        const sum = gpu.zeros(shape);
        const { lines, workgroups } = line(kind);
        gpu.run(collectKernel, {
          variant: { ...own.variant, collect: "scores", line: kind, after },
          bindings: { ...bindings, line_index: index?.tensor, sum },
          params: { ...allParams, line_rows: shape.at(-1)!, line_min: index?.min ?? 0, lines },
          workgroups,
        });
        return sum;
      };
      const dsinks =
        sinks && needs[4]
          ? sumMiddle(
              sumMiddle(sinkGradient(sinks.alias([heads, 1]), lse, delta), batch * heads, queries, 1),
              1,
              batch,
              heads,
            ).alias([heads])
          : undefined;
      const terms = termGradients(
        problem,
        bias,
        { bias: needs[3] ?? false, relatives: needs.slice(5) },
        collect,
      );
      return [
        dq,
        needs[1] ? dk : undefined,
        needs[2] ? dv : undefined,
        terms.bias,
        dsinks,
        ...terms.relatives,
      ];
    },
  });
}

/**
 * Attention: out = softmax(scale q k^T + terms) v over the keys that the masks let through; a row that sees nothing
 * gives zeros.
 *
 * q [batch, heads, queries, headDim], k [batch, kvHeads, keys, headDim], v [batch, kvHeads, keys, valueDim] (or with
 * the sequence before the heads, see `layout`), f32 or f16, accumulated in f32; heads is a multiple of kvHeads and
 * query head h reads key head floor(h kvHeads / heads) (GQA, arXiv:2305.13245; MQA, arXiv:1911.02150). Query row i
 * stands at position i + queryOffset.
 * Vaswani et al. 2017, arXiv:1706.03762; tiles after Dao, arXiv:2307.08691.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  expectTensor("attention", "q", q);
  return q.gpu.scope(() => engine(q, k, v, options)[0]!);
}

/** `attention` with its log-sum-exp and, with `weightSums`, the weights summed by distance. */
export function attentionOutputs(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: AttentionOptions = {},
): AttentionResult {
  expectTensor("attentionOutputs", "q", q);
  return q.gpu.scope(() => {
    const [out, lse, weightSums] = engine(q, k, v, options);
    return { out: out!, lse: emptyRows(lse!, -Infinity), weightSums };
  });
}
