import { ConfigError, ShapeError } from "../../base/errors.js";
import type { DType } from "../../base/dtype.js";
import { activationExpr, type Activation } from "../../expr/activation.js";
import type { Expr } from "../../expr/expr.js";
import { sumMiddle, sumToShape } from "../../tensor/reduce.js";
import { applyOp, isTracked } from "../../tensor/tape.js";
import type { Tensor } from "../../tensor/tensor.js";
import {
  checkConfig,
  expectBoolean,
  expectFloat,
  expectNumber,
  expectOneOf,
  expectTensor,
  expectTensors,
  showShape,
} from "../../base/validate.js";
import { add } from "../arithmetic.js";
import { cast, elementwise } from "../elementwise.js";
import type { MatmulForm } from "./form.js";
import { lowRankOf, type LowRank } from "./low_rank.js";
import { dimensions, runProduct } from "./product.js";

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

const activations = new WeakMap<Expr, (x: Tensor) => Tensor>();
const byName = new Map<string, Expr>();

function activationOp(activation: Expr): (x: Tensor) => Tensor {
  let op = activations.get(activation);
  if (!op) activations.set(activation, (op = elementwise("activation", ["x"], () => activation)));
  return op;
}

function resolveActivation(who: string, activation: Activation | undefined): Expr | undefined {
  if (activation === undefined || activation === "identity") return undefined;
  if (typeof activation !== "string") return activationExpr(who, activation);
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
 * order. Differentiable in a, b, bias and residual. b may be in a form that is only stored (bf16, q8_0, q4_0, ...): it is
 * widened in registers and is a constant.
 *
 * @throws ShapeError, DTypeError
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions & { form?: MatmulForm } = {}): Tensor {
  return product("matmul", a, b, options);
}

/**
 * y = activation(x W^T + bias): x [..., in], weight [out, in], bias [out]; result [..., out].
 *
 * x, bias and residual f32 or f16; weight f32, f16, or in a form that is only stored (bf16, q8_0, q4_0, ...), which is
 * widened in registers and is a constant: the gradient of x flows, none is asked of it. Changes that `adaptLinear` gave the
 * weight are added.
 *
 * @throws ShapeError, DTypeError
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  options: { activation?: Activation | undefined; residual?: Tensor | undefined; alpha?: number } = {},
): Tensor {
  expectTensors("linear", { x, weight });
  checkConfig("linear", options, ["activation", "residual", "alpha"]);
  if (options.residual !== undefined) expectTensor("linear", "residual", options.residual);
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
  const whole = { ...options, residual, transposeB: true, bias };
  const changes = lowRankOf(weight);
  const y =
    changes.length === 0 ? product("linear", rows, weight, whole) : adapted(rows, weight, whole, changes);
  return y.reshape([...x.shape.slice(0, -1), out]);
}

/** The product with a weight that has changes of low rank, which stand in the product's residual. */
function adapted(x: Tensor, weight: Tensor, options: MatmulOptions, changes: readonly LowRank[]): Tensor {
  const { activation, residual, ...plain } = options;
  const { alpha = 1 } = options;
  return x.gpu.scope(() => {
    const dtype: DType = x.dtype === "f16" && weight.dtype === "f16" ? "f16" : "f32";
    // Before an activation nothing else may be added.
    let sum = activation === undefined ? residual : undefined;
    for (const { a, b, scale = 1 } of changes) {
      const inner = product("linear", x, a, { transposeB: true });
      const change = product("linear", inner, b, { transposeB: true, alpha: alpha * scale });
      const same = change.dtype === dtype ? change : cast(change, dtype);
      sum = sum ? add(sum, same) : same;
    }
    const z = product("linear", x, weight, { ...plain, residual: sum });
    const resolved = resolveActivation("linear", activation);
    if (activation === undefined) return z;
    const y = resolved ? activationOp(resolved)(z) : z;
    return residual ? add(y, residual) : y;
  });
}

function product(who: string, a: Tensor, b: Tensor, options: MatmulOptions & { form?: MatmulForm }): Tensor {
  checkConfig(who, options, OPTIONS);
  const { transposeA = false, transposeB = false, bias, residual, alpha = 1, form = "auto" } = options;
  expectBoolean(who, "transposeA", transposeA);
  expectBoolean(who, "transposeB", transposeB);
  expectNumber(who, "alpha", alpha);
  expectOneOf(who, "form", form, ["auto", "wide", "vector", "subgroup", "tiled"]);
  expectTensors(who, { a, b });
  for (const [name, tensor] of Object.entries({ a, b, bias, residual })) {
    if (tensor === undefined) continue;
    expectTensor(who, name, tensor);
    if (tensor !== b || !b.stored) expectFloat(who, name, tensor);
  }
  if (b.stored && transposeA)
    throw new ConfigError(
      who,
      `b is ${b.dtype}, a form that is only stored; with it a must not be transposed`,
    );
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
    stored: true,
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
