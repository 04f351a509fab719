import {
  applyOp,
  concat,
  defineKernel,
  e,
  elementwise,
  expectTensor,
  grid1d,
  mul,
  slice,
  softmax,
  transpose,
  type Kernel,
  type Tensor,
  flatMain,
} from "@x/kernels";
import { collectKernel, linesOf } from "./collect.js";
import { fold } from "./fold.js";
import { SCORES, type AttentionWeightsOptions } from "./options.js";
import { problemOf } from "./problem.js";
import { LOW } from "./wgsl/scores.wgsl.js";
import { termGradients, type Collect } from "./term_gradients.js";

interface ProductVariant {
  readonly x: string;
  /** w is read by its columns. */
  readonly transposed: boolean;
}

/**
 * out[n, i, d] = scale sum_j w[n, i, j] x[n, j, d], one invocation for each element. A pair that is not seen has w = 0,
 * and x is not read there: it may be NaN.
 */
const productKernel: Kernel<ProductVariant> = defineKernel({
  name: "attentionScoresProduct",
  bindings: (v: ProductVariant) => ({
    w: "read f32" as const,
    x: `read ${v.x}` as const,
    out: `write ${v.x}` as const,
  }),
  params: { rows: "u32", columns: "u32", dim: "u32", count: "u32", scale: "f32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("at", "params.count")}
  let d = at % params.dim;
  let i = at / params.dim % params.rows;
  let n = at / params.dim / params.rows;
  var sum = 0.0;
  for (var j = 0u; j < params.columns; j++) {
    let factor = w[n * params.rows * params.columns + ${v.transposed ? "j * params.rows + i" : "i * params.columns + j"}];
    if (factor != 0.0) { sum = fma(factor, f32(x[(n * params.columns + j) * params.dim + d]), sum); }
  }
  out[at] = ${v.x}(params.scale * sum);
}`,
});

/** The matrix of scores, q and k in the order "bhsd". */
function scores(who: string, q: Tensor, k: Tensor, options: AttentionWeightsOptions): Tensor {
  const { gpu } = q;
  const problem = problemOf(q, k, k, options, who);
  const { batch, heads, kvHeads, queries, keys, variant, params, extras, relatives } = problem;
  const shape = [batch, heads, queries, keys];
  const limit = gpu.limits.maxStorageBuffersPerShaderStage;
  const group = heads / kvHeads;
  const { bias } = options;
  const inputs = [q, k, bias, ...relatives.map((r) => r.modifier.tensor), ...Object.values(extras)];
  return applyOp({
    name: who,
    inputs,
    forward: () => {
      const sum = gpu.full(shape, -Infinity);
      if (sum.size === 0) return { outputs: [sum] };
      const { lines, workgroups } = linesOf(problem, "dense");
      const own = fold(variant, extras, limit - 3);
      gpu.run(collectKernel, {
        variant: { ...own.variant, collect: "values", line: "dense", after: variant.terms.length },
        bindings: { q, k, ...own.bindings, sum },
        params: { ...params, ...own.params, line_rows: 0, line_min: 0, lines },
        workgroups,
      });
      return { outputs: [sum] };
    },
    backward: ({ grads, needs }) => {
      const dscores = grads[0]!;
      const own = fold(variant, extras, limit - 5);
      const collect: Collect = (after, line, of, index) => {
        const sum = gpu.zeros(of);
        const { lines, workgroups } = linesOf(problem, line);
        gpu.run(collectKernel, {
          variant: { ...own.variant, collect: "given", line, after },
          bindings: { q, k, ...own.bindings, dscores, line_index: index?.tensor, sum },
          params: { ...params, ...own.params, line_rows: of.at(-1)!, line_min: index?.min ?? 0, lines },
          workgroups,
        });
        return sum;
      };
      const terms = termGradients(
        problem,
        bias,
        { bias: needs[2] ?? false, relatives: needs.slice(3) },
        collect,
      );
      if (!needs[0] && !needs[1]) return [undefined, undefined, terms.bias, ...terms.relatives];
      const raw = collect(-1, "dense", shape);
      const product = (x: Tensor, like: Tensor, transposed: boolean): Tensor => {
        const out = gpu.empty(like.shape, like.dtype);
        const [rows, columns] = transposed ? [keys, group * queries] : [group * queries, keys];
        gpu.run(productKernel, {
          variant: { x: x.dtype, transposed },
          bindings: { w: raw, x, out },
          params: { rows, columns, dim: q.shape[3]!, count: out.size, scale: params["scale"]! },
          workgroups: grid1d(Math.ceil(out.size / 64)),
        });
        return out;
      };
      return [
        needs[0] ? product(k, q, false) : undefined,
        needs[1] ? product(q, k, true) : undefined,
        terms.bias,
        ...terms.relatives,
      ];
    },
  })[0]!;
}

/** The matrix of scores for q and k in any layout. */
function checkedScores(who: string, q: Tensor, k: Tensor, options: AttentionWeightsOptions): Tensor {
  if (options.layout !== "bshd" || q.rank !== 4 || (k as Tensor | undefined)?.rank !== 4)
    return scores(who, q, k, options);
  const turn = (t: Tensor): Tensor => transpose(t, [0, 2, 1, 3]);
  return scores(who, turn(q), turn(k), { ...options, layout: "bhsd" });
}

function check(who: string, q: Tensor, options: AttentionWeightsOptions): void {
  SCORES.read(options, who);
  expectTensor(who, "q", q);
}

/**
 * The scores of attention before the softmax, f32 [batch, heads, queries, keys]: scale q k^T, then the soft cap, the
 * modifiers and the bias, -inf where a mask or a term hides the pair. Without these options it is the plain product.
 * The matrix is stored: for looking at attention and for what is built on scores; `attention` never stores it.
 *
 * q [batch, heads, queries, headDim], k [batch, kvHeads, keys, headDim] (or "bshd"), f32 or f16. Sinks are not part of a
 * score. Differentiable in q, k, the bias and what is learned in modifiers.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function attentionScores(q: Tensor, k: Tensor, options: AttentionWeightsOptions = {}): Tensor {
  const who = "attentionScores";
  check(who, q, options);
  return q.gpu.scope(() => checkedScores(who, q, k, options));
}

const isSeen = elementwise("seenScore", ["score"], (score) => e.select(e.le(score, Number(LOW)), 0, 1));
const bounded = elementwise("boundedScore", ["score"], (score) =>
  e.select(e.le(score, Number(LOW)), Number(LOW), score),
);

/**
 * The weights of attention, softmax of `attentionScores` over the keys, f32 [batch, heads, queries, keys]: out is their
 * product with the values. A hidden pair has 0, a row that sees nothing zeros; with sinks a row sums to less than 1.
 *
 * q [batch, heads, queries, headDim], k [batch, kvHeads, keys, headDim] (or "bshd"), f32 or f16. Differentiable as
 * `attentionScores`, and in the sinks.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function attentionWeights(q: Tensor, k: Tensor, options: AttentionWeightsOptions = {}): Tensor {
  const who = "attentionWeights";
  check(who, q, options);
  return q.gpu.scope(() => {
    const s = checkedScores(who, q, k, options);
    const [batch, heads, queries, keys] = s.shape as [number, number, number, number];
    const logits = bounded(s);
    const { sinks } = options;
    const p = sinks
      ? slice(
          softmax(
            concat([logits, mul(q.gpu.full([batch, heads, queries, 1], 1), sinks.reshape([heads, 1, 1]))], 3),
          ),
          { axis: 3, start: 0, end: keys },
        )
      : softmax(logits);
    return mul(p, isSeen(s));
  });
}
