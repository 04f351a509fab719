import { ShapeError } from "../errors.js";
import { defineKernel, grid1d, type Kernel } from "../kernel.js";
import { sumMiddle } from "../reduce.js";
import { applyOp } from "../tape.js";
import type { Tensor } from "../tensor.js";
import { checkConfig, expectDType, expectShape, expectTensors, showShape } from "../validate.js";
import { concat, slice } from "./shape.js";

interface ConvVariant {
  readonly bias: boolean;
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
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64u + id.x;
  if (index >= ${extent}) { return; }
  let d = index % params.dim;`;

/** x holds taps - 1 rows more than out: y[t] = bias + sum_j weight[j] x[t + j]. */
const forwardKernel: Kernel<ConvVariant> = defineKernel({
  name: "causalConv1d",
  bindings: (v: ConvVariant) => ({
    x: "read f32" as const,
    weight: "read f32" as const,
    ...(v.bias ? { bias: "read f32" as const } : {}),
    out: "write f32" as const,
  }),
  params,
  wgsl: (v) => /* wgsl */ `
${head("params.batch * params.out_rows * params.dim")}
  let t = index / params.dim % params.out_rows;
  let b = index / (params.dim * params.out_rows);
  var y = ${v.bias ? "bias[d]" : "0.0"};
  for (var j = 0u; j < params.taps; j++) { y += weight[d * params.taps + j] * x[(b * params.rows + t + j) * params.dim + d]; }
  out[index] = y;
}`,
});

const inputKernel: Kernel<undefined> = defineKernel({
  name: "causalConv1dBackwardInput",
  bindings: { grad: "read f32", weight: "read f32", out: "write f32" },
  params,
  wgsl: () => /* wgsl */ `
${head("params.batch * params.rows * params.dim")}
  let t = index / params.dim % params.rows;
  let b = index / (params.dim * params.rows);
  var dx = 0.0;
  for (var j = 0u; j < params.taps; j++) {
    if (j <= t && t - j < params.out_rows) { dx += weight[d * params.taps + j] * grad[(b * params.out_rows + t - j) * params.dim + d]; }
  }
  out[index] = dx;
}`,
});

/** Partial sums over chunks of rows: out[chunk, d, j]. */
const weightKernel: Kernel<undefined> = defineKernel({
  name: "causalConv1dBackwardWeight",
  bindings: { grad: "read f32", x: "read f32", out: "write f32" },
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
    total += grad[r * params.dim + d] * x[(b * params.rows + t + j) * params.dim + d];
  }
  out[(c * params.dim + d) * params.taps + j] = total;
}`,
});

/**
 * Depthwise causal convolution: y_t = bias + sum_j weight[:, j] x_{t - K + 1 + j}; the last tap is on the current
 * token.
 *
 * x [batch, rows, dim], weight [dim, K], bias [dim], all f32. `state` [batch, K - 1, dim] holds the inputs before
 * x, oldest first (zeros if absent); the returned state continues the sequence.
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
  for (const [name, t] of Object.entries({ x, weight, bias, state })) if (t) expectDType(who, name, t, "f32");
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
    const before = state ?? x.gpu.zeros([batch, taps - 1, dim]);
    const all = taps > 1 ? concat([before, x], 1) : x;
    const total = rows + taps - 1;
    const call = (
      n: number,
      chunk = 1,
      chunks = 1,
    ): { params: Record<string, number>; workgroups: [number, number] } => ({
      params: { batch, rows: total, out_rows: rows, dim, taps, chunk, chunks },
      workgroups: grid1d(Math.ceil(n / 64)),
    });
    const [out] = applyOp({
      name: who,
      inputs: [all, weight, bias],
      forward: () => {
        const y = x.gpu.empty([batch, rows, dim]);
        x.gpu.run(forwardKernel, {
          ...call(y.size),
          variant: { bias: bias !== undefined },
          bindings: { x: all, weight, bias, out: y },
        });
        return { outputs: [y] };
      },
      backward: ({ grads, needs }) => {
        const grad = grads[0]!;
        const run = (
          kernel: Kernel<undefined>,
          bindings: Record<string, Tensor>,
          shape: readonly number[],
          chunk = 1,
          chunks = 1,
        ): Tensor => {
          const y = x.gpu.empty(shape);
          x.gpu.run(kernel, { ...call(y.size, chunk, chunks), bindings: { ...bindings, out: y } });
          return y;
        };
        const chunks = Math.max(1, Math.ceil((batch * rows) / 64));
        return [
          needs[0] ? run(inputKernel, { grad, weight }, [batch, total, dim]) : undefined,
          needs[1]
            ? sumMiddle(
                run(weightKernel, { grad, x: all }, [chunks, dim, taps], 64, chunks),
                1,
                chunks,
                dim * taps,
              ).alias(weight.shape)
            : undefined,
          needs[2] ? sumMiddle(grad, 1, batch * rows, dim).alias([dim]) : undefined,
        ];
      },
    });
    return { out: out!, state: slice(all, { axis: 1, start: total - (taps - 1) }) };
  });
}
