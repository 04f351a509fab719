import { flatGrid, flatMain } from "../kernel/flat_grid.js";
import { ShapeError } from "../base/errors.js";
import { defineKernel } from "../kernel/kernel.js";
import { sumMiddle } from "../tensor/reduce.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import { checkConfig, expectDType, expectShape, expectTensors, showShape } from "../base/validate.js";
import { cast } from "./elementwise.js";
import { concat, slice } from "./shape.js";

type Float = "f32" | "f16";

interface ConvVariant {
  /** Elements of x, of what comes out and of its gradient. */
  readonly x: Float;
  readonly weight: Float;
  /** Absent without a bias. */
  readonly bias?: Float | undefined;
}

const params = {
  batch: "u32",
  rows: "u32",
  out_rows: "u32",
  dim: "u32",
  taps: "u32",
  chunk: "u32",
  chunks: "u32",
} as const;
const head = (extent: string): string => /* wgsl */ `
${flatMain("index", extent)}
  let d = index % params.dim;`;

/** x holds taps - 1 rows more than out: y[t] = bias + sum_j weight[j] x[t + j]. */
const forwardKernel = defineKernel({
  name: "causalConv1d",
  bindings: (v: ConvVariant) => ({
    x: `read ${v.x}`,
    weight: `read ${v.weight}`,
    ...(v.bias ? { bias: `read ${v.bias}` } : {}),
    out: `write ${v.x}`,
  }),
  params,
  wgsl: (v) => /* wgsl */ `
${head("params.batch * params.out_rows * params.dim")}
  let t = index / params.dim % params.out_rows;
  let b = index / (params.dim * params.out_rows);
  var y = ${v.bias ? "f32(bias[d])" : "0.0"};
  for (var j = 0u; j < params.taps; j++) { y += f32(weight[d * params.taps + j]) * f32(x[(b * params.rows + t + j) * params.dim + d]); }
  out[index] = ${v.x}(y);
}`,
});

const inputKernel = defineKernel({
  name: "causalConv1dBackwardInput",
  bindings: (v: ConvVariant) => ({
    grad: `read ${v.x}`,
    weight: `read ${v.weight}`,
    out: `write ${v.x}`,
  }),
  params,
  wgsl: (v) => /* wgsl */ `
${head("params.batch * params.rows * params.dim")}
  let t = index / params.dim % params.rows;
  let b = index / (params.dim * params.rows);
  var dx = 0.0;
  for (var j = 0u; j < params.taps; j++) {
    if (j <= t && t - j < params.out_rows) { dx += f32(weight[d * params.taps + j]) * f32(grad[(b * params.out_rows + t - j) * params.dim + d]); }
  }
  out[index] = ${v.x}(dx);
}`,
});

/** Partial sums over chunks of rows, in f32: out[chunk, d, j]. */
const weightKernel = defineKernel({
  name: "causalConv1dBackwardWeight",
  bindings: (v: ConvVariant) => ({
    grad: `read ${v.x}`,
    x: `read ${v.x}`,
    out: "write f32",
  }),
  params,
  wgsl: () => /* wgsl */ `
${head("params.chunks * params.taps * params.dim")}
  let j = index / params.dim % params.taps;
  let c = index / (params.dim * params.taps);
  let last = min((c + 1u) * params.chunk, params.batch * params.out_rows);
  var total = 0.0;
  for (var r = c * params.chunk; r < last; r++) {
    let b = r / params.out_rows;
    let t = r % params.out_rows;
    total += f32(grad[r * params.dim + d]) * f32(x[(b * params.rows + t + j) * params.dim + d]);
  }
  out[(c * params.dim + d) * params.taps + j] = total;
}`,
});

/**
 * Depthwise causal convolution: y_t = bias + sum_j weight[:, j] x_{t - K + 1 + j}; the last tap is on the current
 * token.
 *
 * x [batch, rows, dim], weight [dim, K], bias [dim], each f32 or f16, summed in f32; out has the dtype of x. `state`
 * [batch, K - 1, dim], of the dtype of x, holds the inputs before x, oldest first (zeros if absent); the returned state
 * continues the sequence. Gradients reach all four.
 *
 * Data with channels before rows, [batch, dim, rows], is `transpose(x, [0, 2, 1])`; weights [dim, 1, K] are
 * `weight.reshape([dim, K])`; an activation that follows is an op of its own,
 * `elementwise("silu", ["x"], e.silu)(out)`.
 *
 * @throws ShapeError, DTypeError
 */
export function causalConv1d(
  x: Tensor,
  weight: Tensor,
  options: { readonly bias?: Tensor | undefined; readonly state?: Tensor | undefined } = {},
): { out: Tensor; state: Tensor } {
  const who = "causalConv1d";
  checkConfig(who, options, ["bias", "state"]);
  const { bias, state } = options;
  expectTensors(who, { x, weight });
  for (const [name, t] of Object.entries({ x, weight, bias }))
    if (t !== undefined) expectDType(who, name, t, "f32", "f16");
  if (state !== undefined) expectDType(who, "state", state, x.dtype);
  const { batch, rows, dim } = expectShape(who, "x", x, ["batch", "rows", "dim"]) as {
    batch: number;
    rows: number;
    dim: number;
  };
  if (weight.rank !== 2 || weight.shape[0] !== dim || weight.shape[1] === 0) {
    throw new ShapeError(who, `weight has shape ${showShape(weight.shape)}; it must be [${dim}, taps]`);
  }
  const taps = weight.shape[1]!;
  if (bias) expectShape(who, "bias", bias, [dim]);
  if (state) expectShape(who, "state", state, [batch, taps - 1, dim]);
  return x.gpu.scope(() => {
    const before = state ?? x.gpu.zeros([batch, taps - 1, dim], x.dtype);
    const all = taps > 1 ? concat([before, x], 1) : x;
    const total = rows + taps - 1;
    const call = (n: number, chunk = 1, chunks = 1) => ({
      params: { batch, rows: total, out_rows: rows, dim, taps, chunk, chunks },
      workgroups: flatGrid(n),
    });
    const variant = {
      x: x.dtype as Float,
      weight: weight.dtype as Float,
      bias: bias?.dtype as Float | undefined,
    };
    const [out] = applyOp({
      name: who,
      inputs: [all, weight, bias],
      forward: () => {
        const y = x.gpu.empty([batch, rows, dim], x.dtype);
        x.gpu.run(forwardKernel, {
          ...call(y.size),
          variant,
          bindings: { x: all, weight, bias, out: y },
        });
        return { outputs: [y] };
      },
      backward: ({ grads, needs }) => {
        const grad = grads[0]!;
        let dx, dweight, dbias: Tensor | undefined;
        if (needs[0]) {
          dx = x.gpu.empty(all.shape, x.dtype);
          x.gpu.run(inputKernel, { ...call(dx.size), variant, bindings: { grad, weight, out: dx } });
        }
        if (needs[1]) {
          const chunks = Math.max(1, Math.ceil((batch * rows) / 64));
          const parts = x.gpu.empty([chunks, dim, taps]);
          x.gpu.run(weightKernel, {
            ...call(parts.size, 64, chunks),
            variant,
            bindings: { grad, x: all, out: parts },
          });
          dweight = cast(sumMiddle(parts, 1, chunks, dim * taps).alias(weight.shape), weight.dtype);
        }
        if (bias && needs[2])
          dbias = cast(sumMiddle(cast(grad, "f32"), 1, batch * rows, dim).alias([dim]), bias.dtype);
        return [dx, dweight, dbias];
      },
    });
    return { out: out!, state: slice(all, { axis: 1, start: total - (taps - 1) }) };
  });
}
