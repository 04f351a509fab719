import { ConfigError, DTypeError, ShapeError } from "../../errors.js";
import { isFloat, type DType } from "../../dtype.js";
import { activationExpr, type Activation } from "../../expr/activation.js";
import type { Expr } from "../../expr/expr.js";
import type { Gpu } from "../../gpu.js";
import { defineKernel, type Kernel } from "../../kernel.js";
import { sumMiddle, sumToShape } from "../../reduce.js";
import { applyOp, isTracked } from "../../tape.js";
import type { Tensor } from "../../tensor.js";
import { checkConfig, showShape } from "../../validate.js";
import { add } from "../arithmetic.js";
import { broadcastShapes, cast, elementwise } from "../elementwise.js";
import {
  matmulBindings,
  matmulParams,
  subgroupMatmul,
  TILE,
  tiledMatmul,
  VECTOR_COLUMNS,
  vectorMatmul,
  WIDE_COLUMNS,
  wideVectorMatmul,
  type MatmulVariant,
} from "./matmul.wgsl.js";

export interface MatmulOptions {
  /** a is stored [..., K, M]. */
  readonly transposeA?: boolean;
  /** b is stored [..., N, K]. */
  readonly transposeB?: boolean;
  /** Added to every row: [N]. */
  readonly bias?: Tensor | undefined;
  /** Applied after the bias, by name or as an expression of "x". */
  readonly activation?: Activation | undefined;
  /** Added last, in the shape of the result. */
  readonly residual?: Tensor | undefined;
  /** Factor of the product; default 1. */
  readonly alpha?: number;
}

/** The ways to compute a product; `auto` chooses by shape, and by what `tune` measured or the adapter's features. */
export type MatmulForm = "auto" | "subgroup" | "tiled" | "vector" | "wide";

const subgroupKernel: Kernel<MatmulVariant> = defineKernel({
  name: "matmul",
  bindings: matmulBindings,
  params: matmulParams,
  subgroups: true,
  wgsl: subgroupMatmul,
});
const tiledKernel: Kernel<MatmulVariant> = defineKernel({
  name: "matmulTiled",
  bindings: matmulBindings,
  params: matmulParams,
  wgsl: tiledMatmul,
});
const vectorKernel: Kernel<MatmulVariant> = defineKernel({
  name: "matmulVector",
  bindings: matmulBindings,
  params: matmulParams,
  subgroups: (v) => v.lanes > 0,
  wgsl: vectorMatmul,
});
const wideVectorKernel: Kernel<MatmulVariant> = defineKernel({
  name: "matmulWideVector",
  bindings: matmulBindings,
  params: matmulParams,
  wgsl: wideVectorMatmul,
});

interface Product {
  readonly a: Tensor;
  readonly b: Tensor;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly bias?: Tensor | undefined;
  readonly residual?: Tensor | undefined;
  readonly activation?: Expr | undefined;
  readonly alpha: number;
  readonly form: MatmulForm;
}

interface Dimensions {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  /** Broadcast batch axes. */
  readonly batch: readonly number[];
}

function dimensions(who: string, a: Tensor, b: Tensor, transposeA: boolean, transposeB: boolean): Dimensions {
  if (a.rank < 2 || b.rank < 2) {
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

/** Merge batch axes that both operands step through alike, to at most four. */
function batchLayout(
  who: string,
  batch: readonly number[],
  a: readonly number[],
  b: readonly number[],
  sizeA: number,
  sizeB: number,
): { dims: number[]; strideA: number[]; strideB: number[] } {
  const strides = (shape: readonly number[], unit: number): number[] => {
    const out = new Array<number>(batch.length).fill(0);
    let stride = unit;
    for (let i = shape.length - 1; i >= 0; i--) {
      if (shape[i] !== 1) out[i + batch.length - shape.length] = stride;
      stride *= shape[i] ?? 1;
    }
    return out;
  };
  const [sa, sb] = [strides(a, sizeA), strides(b, sizeB)];
  const dims: number[] = [];
  const strideA: number[] = [];
  const strideB: number[] = [];
  for (let i = batch.length - 1; i >= 0; i--) {
    const n = batch[i] ?? 1;
    if (n === 1) continue;
    const [x = 0, y = 0] = [sa[i], sb[i]];
    const inner = dims[0];
    if (inner !== undefined && x === (strideA[0] ?? 0) * inner && y === (strideB[0] ?? 0) * inner) {
      dims[0] = inner * n;
      continue;
    }
    dims.unshift(n);
    strideA.unshift(x);
    strideB.unshift(y);
  }
  if (dims.length > 4)
    throw new ShapeError(who, `batch axes ${showShape(batch)} broadcast in more than four groups`);
  while (dims.length < 4) {
    dims.unshift(1);
    strideA.unshift(0);
    strideB.unshift(0);
  }
  return { dims, strideA, strideB };
}

/** Multiply-adds from which a product is worth the compilation of the form with sixteen rows. */
const LARGE = 2 ** 27;

/** Rows per subgroup: sixteen amortise loads of b best; eight waste less of small products and compile in half the time. */
export const chooseRows = (M: number, work: number, vec: boolean): number =>
  vec && M >= 64 && work >= LARGE ? 16 : 8;

export function hasFixedSubgroups(gpu: Gpu): boolean {
  const { subgroups, subgroupMinSize, subgroupMaxSize } = gpu.features;
  return subgroups && subgroupMinSize === subgroupMaxSize && subgroupMinSize >= 8 && subgroupMinSize <= 64;
}

/** A workgroup of the wide form takes 256 columns: a CPU's cores are busy with few of those, a GPU's are not. */
function chooseForm(gpu: Gpu, M: number, N: number, widens: boolean): Exclude<MatmulForm, "auto"> {
  const { software } = gpu.info;
  const { matmul = software ? "subgroup" : "tiled", vector = software ? "wide" : "vector" } =
    gpu.tuning ?? {};
  if (M <= 4) return widens ? vector : "vector";
  const small = M < 32 || N < 32;
  return hasFixedSubgroups(gpu) && (small || matmul === "subgroup") ? "subgroup" : "tiled";
}

function runProduct(who: string, p: Product): Tensor {
  const { transposeA, transposeB } = p;
  let { a, b } = p;
  const gpu = a.gpu;
  const found = dimensions(who, a, b, transposeA, transposeB);
  const { N, K } = found;
  let { M, batch } = found;
  const shape = [...batch, M, N];
  const out = gpu.empty(shape, a.dtype === "f16" && b.dtype === "f16" ? "f16" : "f32");
  if (out.size === 0) return out;
  // One matrix b for every row of every batch of a: the batches are more rows.
  const outer = batch.reduce((x, y) => x * y, 1);
  if (!transposeA && outer > 1 && b.size === K * N && a.size === outer * M * K) {
    a = a.alias([outer * M, K]);
    b = b.alias(b.shape.slice(-2));
    M *= outer;
    batch = [];
  }
  const layout = batchLayout(who, batch, a.shape.slice(0, -2), b.shape.slice(0, -2), M * K, K * N);
  const count = layout.dims.reduce((x, y) => x * y, 1);
  const bytes = (n: number): boolean => n % 4 === 0;
  const base = {
    transposeA,
    transposeB,
    a: a.dtype,
    b: b.dtype,
    out: out.dtype,
    vecA: bytes(transposeA ? M : K) && (transposeA ? M : K) > 0,
    vecB: bytes(transposeB ? K : N) && (transposeB ? K : N) > 0,
    vecOut: bytes(N),
    grouping: "none" as const,
    tail: !bytes(K),
    batched: count > 1,
    bias: p.bias?.dtype,
    residual: p.residual?.dtype,
    activation: p.activation,
  };
  const call = {
    bindings: { a, b, bias: p.bias, residual: p.residual, out },
    params: { batch: layout.dims, strideA: layout.strideA, strideB: layout.strideB, M, N, K, alpha: p.alpha },
  };
  const widens = !transposeA && !transposeB && base.vecA && base.vecB;
  const form = p.form === "auto" ? chooseForm(gpu, M, N, widens && N >= 4 * WIDE_COLUMNS) : p.form;
  const rows = Math.min(M, 4);
  switch (form) {
    case "wide":
      if (!widens)
        throw new ConfigError(
          who,
          "the wide form takes a [M, K] and b [K, N] as they are stored, K and N multiples of four",
        );
      gpu.run(wideVectorKernel, {
        ...call,
        variant: { ...base, lanes: 0, rows },
        workgroups: [Math.ceil(M / rows), Math.ceil(N / WIDE_COLUMNS), count],
      });
      break;
    case "vector": {
      // A subgroup makes 4 columns: where those are more workgroups than a grid's side holds, threads make 32.
      const fits = Math.ceil(N / 4) <= gpu.limits.maxComputeWorkgroupsPerDimension;
      const lanes = transposeB && fits && hasFixedSubgroups(gpu) ? gpu.features.subgroupMinSize : 0;
      gpu.run(vectorKernel, {
        ...call,
        variant: { ...base, lanes, rows },
        workgroups: [Math.ceil(M / rows), Math.ceil(N / (lanes > 0 ? 4 : VECTOR_COLUMNS)), count],
      });
      break;
    }
    case "subgroup": {
      if (!hasFixedSubgroups(gpu))
        throw new ConfigError(who, `the adapter ${gpu.info.name} has no subgroups of one fixed size`);
      const lanes = gpu.features.subgroupMinSize;
      const rows = chooseRows(M, M * N * K * count, base.vecA && base.vecB);
      gpu.run(subgroupKernel, {
        ...call,
        variant: { ...base, lanes, rows },
        workgroups: [Math.ceil(M / rows), Math.ceil(N / (4 * lanes)), count],
      });
      break;
    }
    case "tiled":
      gpu.run(tiledKernel, {
        ...call,
        variant: { ...base, lanes: 0, rows: 8 },
        workgroups: [Math.ceil(M / TILE), Math.ceil(N / TILE), count],
      });
  }
  return out;
}

const activations = new WeakMap<Expr, (x: Tensor) => Tensor>();
const byName = new Map<string, Expr>();

function activationOp(activation: Expr): (x: Tensor) => Tensor {
  let op = activations.get(activation);
  if (!op) activations.set(activation, (op = elementwise("activation", ["x"], () => activation)));
  return op;
}

function resolveActivation(who: string, activation: Activation | undefined): Expr | undefined {
  if (activation === undefined || activation === "identity") return undefined;
  if (typeof activation !== "string") return activation;
  let expr = byName.get(activation);
  if (!expr) byName.set(activation, (expr = activationExpr(who, activation)));
  return expr;
}

const OPTIONS = ["transposeA", "transposeB", "bias", "activation", "residual", "alpha", "form"];

/**
 * Matrix product with a fused epilogue: activation(alpha a b + bias) + residual.
 *
 * a [..., M, K] (or [..., K, M] with `transposeA`), b [..., K, N] (or [..., N, K] with `transposeB`); batch axes
 * broadcast as in numpy. Result [..., M, N]: f16 if a and b are f16, else f32. Accumulated in float32, in a fixed
 * order. Differentiable in a, b, bias and residual.
 *
 * @throws ShapeError, DTypeError
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions & { form?: MatmulForm } = {}): Tensor {
  return product("matmul", a, b, options);
}

/**
 * y = activation(x W^T + bias): x [..., in], weight [out, in], bias [out]; result [..., out].
 *
 * @throws ShapeError, DTypeError
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  options: { activation?: Activation | undefined; residual?: Tensor | undefined; alpha?: number } = {},
): Tensor {
  if (weight.rank !== 2)
    throw new ShapeError("linear", `weight has shape ${showShape(weight.shape)}; it must be [out, in]`);
  const [out = 0, width = 0] = weight.shape;
  if (x.shape.at(-1) !== width) {
    throw new ShapeError(
      "linear",
      `x has shape ${showShape(x.shape)}; its last axis must be ${String(width)} (weight is ${showShape(weight.shape)})`,
    );
  }
  const rows = x.reshape([x.size / Math.max(width, 1), width]);
  const residual = options.residual?.reshape([rows.shape[0] ?? 0, out]);
  const y = product("linear", rows, weight, { ...options, residual, transposeB: true, bias });
  return y.reshape([...x.shape.slice(0, -1), out]);
}

function product(who: string, a: Tensor, b: Tensor, options: MatmulOptions & { form?: MatmulForm }): Tensor {
  checkConfig(who, options, OPTIONS);
  const { transposeA = false, transposeB = false, bias, residual, alpha = 1, form = "auto" } = options;
  const inputs = { a, b, bias, residual };
  for (const [name, tensor] of Object.entries(inputs)) {
    if (tensor && !isFloat(tensor.dtype))
      throw new DTypeError(who, `${name} is ${tensor.dtype}; it must be f32 or f16`);
  }
  const { M, N, K, batch } = dimensions(who, a, b, transposeA, transposeB);
  if (bias && (bias.rank !== 1 || bias.shape[0] !== N)) {
    throw new ShapeError(who, `bias has shape ${showShape(bias.shape)}; it must be [${String(N)}]`);
  }
  const shape = [...batch, M, N];
  if (residual && (residual.rank !== shape.length || residual.shape.some((n, i) => n !== shape[i]))) {
    throw new ShapeError(
      who,
      `residual has shape ${showShape(residual.shape)}; it must be ${showShape(shape)}`,
    );
  }
  const activation = resolveActivation(who, options.activation);
  if (activation && isTracked([a, b, bias, residual])) {
    // The gradient needs the value before the activation, so the two are separate operations here.
    const z = product(who, a, b, { transposeA, transposeB, bias, alpha, form });
    const y = activationOp(activation)(z);
    return residual ? add(y, residual) : y;
  }
  return applyOp({
    name: who,
    inputs: [a, b, bias, residual],
    forward: () => ({
      outputs: [runProduct(who, { a, b, transposeA, transposeB, bias, residual, activation, alpha, form })],
    }),
    backward: ({ grads, needs }) => {
      const g = grads[0] as Tensor;
      const gradA = (): Tensor => {
        // a = g b^T, or its transpose b g^T.
        const full = transposeA
          ? runProduct(who, { a: b, b: g, transposeA: transposeB, transposeB: true, alpha, form })
          : runProduct(who, { a: g, b, transposeA: false, transposeB: !transposeB, alpha, form });
        return sumToShape(full, a.shape);
      };
      const gradB = (): Tensor => {
        const outer = batch.reduce((x, y) => x * y, 1);
        if (!transposeA && outer > 1 && b.size === K * N && a.size === outer * M * K) {
          // One matrix for all batches: sum over batches and rows inside one product.
          const [x, d] = [a.alias([outer * M, K]), g.alias([outer * M, N])];
          const full = transposeB
            ? runProduct(who, { a: d, b: x, transposeA: true, transposeB: false, alpha, form })
            : runProduct(who, { a: x, b: d, transposeA: true, transposeB: false, alpha, form });
          return full.alias(b.shape);
        }
        const full = transposeB
          ? runProduct(who, { a: g, b: a, transposeA: true, transposeB: transposeA, alpha, form })
          : runProduct(who, { a, b: g, transposeA: !transposeA, transposeB: false, alpha, form });
        return sumToShape(full, b.shape);
      };
      const same = (t: Tensor, dtype: DType): Tensor => (t.dtype === dtype ? t : cast(t, dtype));
      return [
        needs[0] ? same(gradA(), a.dtype) : undefined,
        needs[1] ? same(gradB(), b.dtype) : undefined,
        needs[2] && bias ? same(sumMiddle(g, 1, g.size / N, N).alias([N]), bias.dtype) : undefined,
        needs[3] && residual ? same(g, residual.dtype) : undefined,
      ];
    },
  })[0] as Tensor;
}
