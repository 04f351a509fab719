import { DTypeError, ShapeError } from "../../base/errors.js";
import { defineKernel, type Bindable } from "../../kernel/kernel.js";
import { applyOp } from "../../tensor/tape.js";
import type { Tensor } from "../../tensor/tensor.js";
import { checkConfig, expectFloat, expectShape, expectTensors, showShape } from "../../base/validate.js";
import { matrixBindings, packedType, stackParts } from "../../stored/planes.js";
import { cast } from "../elementwise.js";
import { scatterAdd } from "../indexing.js";
import { slice } from "../shape.js";
import { chooseRows, chooseTile, chooseTileForm } from "./form.js";
import { subgroupMatmul } from "./subgroup.wgsl.js";
import { tiledMatmul, tileOf } from "./tiled.wgsl.js";
import { matmulBindings, matmulParams, type MatmulVariant } from "./variant.js";

const subgroupKernel = defineKernel({
  name: "groupedMatmul",
  bindings: matmulBindings,
  params: matmulParams,
  subgroups: true,
  wgsl: subgroupMatmul,
});
const tiledKernel = defineKernel({
  name: "groupedMatmulTiled",
  bindings: matmulBindings,
  params: matmulParams,
  wgsl: tiledMatmul,
});

interface GroupedProduct {
  readonly a: Tensor;
  readonly b: Tensor;
  readonly offsets: Tensor;
  readonly grouping: "rows" | "inner";
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly bias?: Tensor | undefined;
  readonly groups: number;
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly shape: readonly number[];
}

function run(p: GroupedProduct): Tensor {
  const { a, b, groups, M, N, K, grouping, transposeA, transposeB, bias } = p;
  const { gpu } = a;
  const dtype = a.dtype === "f16" && b.dtype === "f16" ? "f16" : "f32";
  const byRows = grouping === "rows";
  const parts = byRows ? stackParts(b) : [];
  // Rows of no group (past the last offset) are zeros; the kernel writes them, except where it would add a bias, and
  // where it sees some of the groups only.
  const others = bias === undefined && parts.length <= 1;
  const out = others ? gpu.empty(p.shape, dtype) : gpu.zeros(p.shape, dtype);
  if (out.size === 0) return out;
  const even = (n: number): boolean => n % 4 === 0 && n > 0;
  const packed = packedType(b);
  // Rows of one product: the last tile of each group is partly idle.
  const height = byRows ? M / groups : M;
  const lanes = chooseTileForm(gpu, height, N) === "subgroup" ? gpu.features.subgroupMinSize : 0;
  const [vecA, vecB] = [even(transposeA ? M : K), even(transposeB ? K : N)];
  const rows = lanes > 0 ? chooseRows(height, M * N * K, vecA && vecB) : chooseTile(height, N, groups);
  const variant: MatmulVariant = {
    transposeA,
    transposeB,
    a: a.dtype,
    b: b.dtype,
    packed,
    out: out.dtype,
    vecA,
    vecB,
    vecOut: even(N),
    bias: bias?.dtype,
    residual: undefined,
    activation: undefined,
    grouping,
    others,
    tail: grouping === "inner" || !even(K),
    batched: false,
    lanes,
    rows,
    team: 0,
  };
  const [tile, columns] = lanes > 0 ? [rows, 4 * lanes] : [tileOf(rows), tileOf(rows)];
  const dispatch = (count: number, operands: Readonly<Record<string, Bindable | undefined>>): void => {
    gpu.run(lanes > 0 ? subgroupKernel : tiledKernel, {
      variant,
      bindings: { a, ...operands, out },
      params: {
        batch: [1, 1, 1, count],
        strideA: [0, 0, 0, 0],
        strideB: [0, 0, 0, N * K],
        M,
        N,
        K,
        alpha: 1,
      },
      // Every tile of rows has at least one row; each group, and the rest, may end in a tile that is not full.
      workgroups: [
        byRows ? Math.min(M, Math.ceil(M / tile) + count + 1) : Math.ceil(M / tile),
        Math.ceil(N / columns),
        byRows ? 1 : count,
      ],
    });
  };
  if (parts.length <= 1)
    dispatch(groups, { ...matrixBindings(b, "b", packed !== undefined), bias, offsets: p.offsets });
  else
    gpu.scope(() => {
      // The matrices of some groups at a time, where all are more than a binding holds.
      const [, rowsOfOne, width] = b.shape as [number, number, number];
      const matrix = b.alias([groups * rowsOfOne, width]);
      for (const { first, count } of parts) {
        const range = { axis: 0, start: first };
        const rows = { first: first * rowsOfOne, count: count * rowsOfOne };
        dispatch(count, {
          ...matrixBindings(matrix, "b", packed !== undefined, rows),
          bias: bias && slice(bias, { ...range, end: first + count }),
          offsets: slice(p.offsets, { ...range, end: first + count + 1 }),
        });
      }
    });
  return out;
}

/**
 * y[r] = weight[e] x[r] (+ bias[e]) for the rows offsets[e] <= r < offsets[e + 1]: a matrix for each group of rows, at
 * a cost that follows the rows, whatever the number of groups.
 *
 * x [rows, in], weight [groups, out, in] (f32, f16, or a constant in a form that is only stored), bias [groups, out];
 * offsets u32 [groups + 1] on the GPU, rising, as `groupBy` gives them. Rows past the last offset give zeros. Result [rows, out].
 *
 * @throws ShapeError, DTypeError
 */
export function groupedMatmul(
  x: Tensor,
  weight: Tensor,
  offsets: Tensor,
  options: { readonly bias?: Tensor | undefined } = {},
): Tensor {
  const who = "groupedMatmul";
  checkConfig(who, options, ["bias"]);
  const { bias } = options;
  expectTensors(who, { x, weight, offsets, ...(bias === undefined ? {} : { bias }) });
  for (const [name, t] of Object.entries({ x, weight, bias }))
    if (t && (t !== weight || !t.stored)) expectFloat(who, name, t);
  if (offsets.dtype !== "u32") throw new DTypeError(who, `offsets are ${offsets.dtype}; they must be u32`);
  if (weight.rank !== 3)
    throw new ShapeError(who, `weight has shape ${showShape(weight.shape)}; it must be [groups, out, in]`);
  const [groups, N, K] = weight.shape as [number, number, number];
  expectShape(who, "x", x, ["rows", K]);
  expectShape(who, "offsets", offsets, [groups + 1]);
  if (bias) expectShape(who, "bias", bias, [groups, N]);
  const M = x.shape[0]!;
  const same = (t: Tensor, like: Tensor): Tensor => cast(t, like.dtype);
  return applyOp({
    name: who,
    stored: true,
    inputs: [x, weight, bias, offsets],
    forward: () => ({
      outputs: [
        run({
          a: x,
          b: weight,
          offsets,
          bias,
          grouping: "rows",
          transposeA: false,
          transposeB: true,
          groups,
          M,
          N,
          K,
          shape: [M, N],
        }),
      ],
    }),
    backward: ({ grads, needs }) => {
      const g = grads[0]!;
      return [
        needs[0]
          ? same(
              run({
                a: g,
                b: weight,
                offsets,
                grouping: "rows",
                transposeA: false,
                transposeB: false,
                groups,
                M,
                N: K,
                K: N,
                shape: [M, K],
              }),
              x,
            )
          : undefined,
        needs[1]
          ? same(
              run({
                a: g,
                b: x,
                offsets,
                grouping: "inner",
                transposeA: true,
                transposeB: false,
                groups,
                M: N,
                N: K,
                K: M,
                shape: [groups, N, K],
              }),
              weight,
            )
          : undefined,
        needs[2] && bias ? same(scatterAdd(g, groupOfRows(offsets, M, groups), groups), bias) : undefined,
        undefined,
      ];
    },
  })[0]!;
}

const groupKernel = defineKernel({
  name: "groupOfRows",
  bindings: { offsets: "read u32", out: "write i32" },
  params: { rows: "u32", groups: "u32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.rows) { return; }
  var e = 0u;
  while (e < params.groups && offsets[e + 1u] <= id.x) { e++; }
  out[id.x] = select(i32(e), -1, e == params.groups);
}`,
});

/** Group of each row, -1 past the last; outside the tape. */
function groupOfRows(offsets: Tensor, rows: number, groups: number): Tensor {
  const out = offsets.gpu.empty([rows], "i32");
  offsets.gpu.run(groupKernel, {
    bindings: { offsets, out },
    params: { rows, groups },
    workgroups: [Math.ceil(rows / 64)],
  });
  return out;
}
