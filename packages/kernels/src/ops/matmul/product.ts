import { ConfigError, ShapeError } from "../../base/errors.js";
import type { Expr } from "../../expr/expr.js";
import type { Gpu } from "../../device/gpu.js";
import { defineKernel, type Kernel } from "../../kernel/kernel.js";
import type { Tensor } from "../../tensor/tensor.js";
import { showShape } from "../../base/validate.js";
import type { PackedType } from "../../stored/forms.js";
import { matrixBindings, packedType } from "../../stored/planes.js";
import { broadcastShapes } from "../elementwise.js";
import { batchLayout } from "./batch.js";
import { chooseForm, chooseRows, chooseTile, hasFixedSubgroups, type MatmulForm } from "./form.js";
import type { Part } from "../../kernel/flat_run.js";
import { splitProduct } from "./split.js";
import { packedBindings, packedColumns, packedVector } from "./packed_vector.wgsl.js";
import { subgroupMatmul } from "./subgroup.wgsl.js";
import { tiledMatmul, tileOf } from "./tiled.wgsl.js";
import { matmulBindings, matmulParams, type MatmulVariant } from "./variant.js";
import { VECTOR_COLUMNS, vectorMatmul } from "./vector.wgsl.js";
import { WIDE_COLUMNS, wideMatmul } from "./wide.wgsl.js";

const define = (name: string, wgsl: (v: MatmulVariant) => string): Kernel<MatmulVariant> =>
  defineKernel({
    name,
    bindings: matmulBindings,
    params: matmulParams,
    subgroups: (v) => v.lanes > 0,
    wgsl,
  });
const subgroupKernel: Kernel<MatmulVariant> = define("matmul", subgroupMatmul);
const tiledKernel: Kernel<MatmulVariant> = define("matmulTiled", tiledMatmul);
const vectorKernel: Kernel<MatmulVariant> = define("matmulVector", vectorMatmul);
const wideKernel: Kernel<MatmulVariant> = define("matmulWideVector", wideMatmul);
const packedKernel: Kernel<MatmulVariant> = defineKernel({
  name: "matmulPackedVector",
  bindings: packedBindings,
  params: matmulParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: packedVector,
});

interface Dimensions {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  /** Broadcast batch axes. */
  readonly batch: readonly number[];
}

export function dimensions(
  who: string,
  a: { readonly shape: readonly number[] },
  b: { readonly shape: readonly number[] },
  transposeA: boolean,
  transposeB: boolean,
): Dimensions {
  if (a.shape.length < 2 || b.shape.length < 2) {
    throw new ShapeError(
      who,
      `a has shape ${showShape(a.shape)}, b has ${showShape(b.shape)}; both need at least two axes`,
    );
  }
  const [a0 = 0, a1 = 0] = a.shape.slice(-2);
  const [b0 = 0, b1 = 0] = b.shape.slice(-2);
  const [M, Ka] = transposeA ? [a1, a0] : [a0, a1];
  const [Kb, N] = transposeB ? [b1, b0] : [b0, b1];
  if (Ka !== Kb) {
    throw new ShapeError(
      who,
      `a ${showShape(a.shape)}${transposeA ? " (transposed)" : ""} has ${String(Ka)} columns, b ${showShape(b.shape)}${transposeB ? " (transposed)" : ""} has ${String(Kb)} rows; they must be equal`,
    );
  }
  const batch = broadcastShapes(who, [a.shape.slice(0, -2), b.shape.slice(0, -2)]);
  return { M, N, K: Ka, batch };
}

export interface Product {
  readonly a: Tensor;
  readonly b: Tensor;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly bias?: Tensor | undefined;
  readonly residual?: Tensor | undefined;
  readonly activation?: Expr | undefined;
  readonly alpha: number;
  readonly form: MatmulForm;
  /** The rows of b that take part; undefined for all. */
  readonly rowsOfB?: Part;
}

/** A kernel for a product, and the outputs that each of its workgroups makes. */
interface Plan {
  readonly kernel: Kernel<MatmulVariant>;
  readonly lanes: number;
  readonly rows: number;
  readonly tile: readonly [rows: number, columns: number];
  readonly team?: number;
}

function planVector(gpu: Gpu, M: number, N: number, transposeB: boolean): Plan {
  const rows = Math.min(M, 4);
  // A subgroup makes 4 columns: where those are more workgroups than a grid's side holds, threads make 32.
  const fits = Math.ceil(N / 4) <= gpu.limits.maxComputeWorkgroupsPerDimension;
  const lanes = transposeB && fits && hasFixedSubgroups(gpu) ? gpu.features.subgroupMinSize : 0;
  return { kernel: vectorKernel, lanes, rows, tile: [rows, lanes > 0 ? 4 : VECTOR_COLUMNS] };
}

function planSubgroup(who: string, gpu: Gpu, M: number, work: number, vec: boolean): Plan {
  if (!hasFixedSubgroups(gpu))
    throw new ConfigError(
      who,
      `form is "subgroup"; the adapter ${gpu.info.name} has no subgroups of one fixed size of 8 to 64, which it needs`,
    );
  const lanes = gpu.features.subgroupMinSize;
  const rows = chooseRows(M, work, vec);
  return { kernel: subgroupKernel, lanes, rows, tile: [rows, 4 * lanes] };
}

function planTiled(M: number, N: number, count: number): Plan {
  const rows = chooseTile(M, N, count);
  return { kernel: tiledKernel, lanes: 0, rows, tile: [tileOf(rows), tileOf(rows)] };
}

function planWide(who: string, M: number, widens: boolean): Plan {
  if (!widens)
    throw new ConfigError(
      who,
      "the wide form takes a [M, K] and b [K, N] as they are stored, K and N multiples of four",
    );
  const rows = Math.min(M, 4);
  return { kernel: wideKernel, lanes: 0, rows, tile: [rows, WIDE_COLUMNS] };
}

/**
 * Few rows and a stored b, by blocks. Lanes of a subgroup take a column each where loads cost what they cost anywhere, on
 * a CPU; on a GPU the invocations of a team read neighbouring blocks.
 */
function planPacked(gpu: Gpu, M: number, K: number): Plan {
  const rows = Math.min(M, 4);
  const lanes = gpu.info.software && hasFixedSubgroups(gpu) ? gpu.features.subgroupMinSize : 0;
  const team = lanes > 0 ? 0 : K >= 2048 ? 32 : 8;
  return { kernel: packedKernel, lanes, rows, team, tile: [rows, packedColumns(lanes, team)] };
}

/** The type whose blocks `planPacked` reads: half floats, too, where shaders know them and a product has few rows. */
function packedOf({ a, b, form }: Product, blocks: boolean): PackedType | undefined {
  const halves = blocks && form === "auto" && b.dtype === "f16" && a.dtype === "f32" && a.gpu.info.software;
  return packedType(b) ?? (halves ? "f16" : undefined);
}

/** One matrix b for every row of every batch of a: the batches are more rows. */
function foldBatch(
  p: Product,
  { M, N, K, batch }: Dimensions,
): { a: Tensor; b: Tensor; M: number; batch: readonly number[] } {
  const { a, b, transposeA } = p;
  const outer = batch.reduce((x, y) => x * y, 1);
  if (transposeA || outer <= 1 || b.size !== K * N || a.size !== outer * M * K) return { a, b, M, batch };
  return { a: a.alias([outer * M, K]), b: b.alias(b.shape.slice(-2)), M: outer * M, batch: [] };
}

/** activation(alpha a b + bias) + residual, outside the tape. */
export function runProduct(who: string, p: Product): Tensor {
  const { transposeA, transposeB } = p;
  const { gpu } = p.a;
  const rowsOfB = p.rowsOfB && [p.rowsOfB.count, p.b.shape[1]!];
  const found = dimensions(who, p.a, { shape: rowsOfB ?? p.b.shape }, transposeA, transposeB);
  const { N, K } = found;
  const dtype = p.a.dtype === "f16" && p.b.dtype === "f16" ? "f16" : "f32";
  const split = splitProduct(p, found.M, N, dtype, (part) => runProduct(who, part));
  if (split) return split;
  const out = gpu.empty([...found.batch, found.M, N], dtype);
  if (out.size === 0) return out;
  const { a, b, M, batch } = foldBatch(p, found);
  const layout = batchLayout(who, batch, a.shape.slice(0, -2), b.shape.slice(0, -2), M * K, K * N);
  const count = layout.dims.reduce((x, y) => x * y, 1);
  const byFour = (n: number): boolean => n % 4 === 0 && n > 0;
  const [vecA, vecB] = [byFour(transposeA ? M : K), byFour(transposeB ? K : N)];
  const widens = !transposeA && !transposeB && vecA && vecB;
  const blocks = M <= 4 && !transposeA && transposeB && K % 32 === 0 && K > 0;
  const packed = packedOf(p, blocks);
  const plan = (): Plan => {
    if (packed !== undefined && blocks && p.form === "auto") return planPacked(gpu, M, K);
    const form = p.form === "auto" ? chooseForm(gpu, M, N, widens && N >= 4 * WIDE_COLUMNS) : p.form;
    switch (form) {
      case "wide":
        return planWide(who, M, widens);
      case "vector":
        return planVector(gpu, M, N, transposeB);
      case "subgroup":
        return planSubgroup(who, gpu, M, M * N * K * count, vecA && vecB);
      case "tiled":
        return planTiled(M, N, count);
    }
  };
  const { kernel, lanes, rows, tile, team = 0 } = plan();
  gpu.run(kernel, {
    variant: {
      transposeA,
      transposeB,
      a: a.dtype,
      b: b.dtype,
      packed,
      out: out.dtype,
      vecA,
      vecB,
      vecOut: byFour(N),
      bias: p.bias?.dtype,
      residual: p.residual?.dtype,
      activation: p.activation,
      grouping: "none",
      others: false,
      tail: K % 4 !== 0,
      batched: count > 1,
      lanes,
      rows,
      team,
    },
    bindings: {
      a,
      ...matrixBindings(b, "b", packed !== undefined, p.rowsOfB),
      bias: p.bias,
      residual: p.residual,
      out,
    },
    params: { batch: layout.dims, strideA: layout.strideA, strideB: layout.strideB, M, N, K, alpha: p.alpha },
    workgroups: [Math.ceil(M / tile[0]), Math.ceil(N / tile[1]), count],
  });
  return out;
}
