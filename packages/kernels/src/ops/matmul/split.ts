import { partsOf, type Part } from "../../kernel/flat_run.js";
import { BYTES_PER_ELEMENT, type ElementType } from "../../base/dtype.js";
import type { Tensor } from "../../tensor/tensor.js";
import { matrixParts } from "../../stored/planes.js";
import { elementwise } from "../elementwise.js";
import { concat, slice } from "../shape.js";
import { add } from "../arithmetic.js";
import type { Product } from "./product.js";

/*
 * Products of which b, or the result, is larger than what a device binds at a time. They are made by parts of its rows;
 * the order of every sum is fixed by the sizes and the device's limit.
 */

type Run = (p: Product) => Tensor;

const columns = (t: Tensor, { first, count }: Part): Tensor =>
  slice(t, { axis: t.rank - 1, start: first, end: first + count });

/** Rows of a matrix as a tensor of their own, without binding it. */
function rowsOf(t: Tensor, { first, count }: Part): Tensor {
  const width = t.shape.at(-1)!;
  const out = t.gpu.empty([count, width], t.dtype);
  t.gpu.copy(t, out, { fromOffset: first * width, length: count * width });
  return out;
}

/** b [N, K] in parts: columns of the result. */
function splitColumns(p: Product, parts: readonly Part[], run: Run): Tensor {
  const made = parts.map((rowsOfB) =>
    run({
      ...p,
      rowsOfB,
      bias: p.bias && columns(p.bias, rowsOfB),
      residual: p.residual && columns(p.residual, rowsOfB),
    }),
  );
  return concat(made, -1);
}

/** b [K, N] in parts: sums over parts of k. */
function splitInner(p: Product, parts: readonly Part[], run: Run): Tensor {
  const { a, b, transposeA, transposeB, alpha, form, activation } = p;
  const partOfA = (part: Part): Tensor =>
    transposeA
      ? slice(a, { axis: a.rank - 2, start: part.first, end: part.first + part.count })
      : columns(a, part);
  let sum: Tensor | undefined;
  for (const [i, rowsOfB] of parts.entries())
    sum = run({
      ...{ a: partOfA(rowsOfB), b, transposeA, transposeB, alpha, form, rowsOfB, residual: sum },
      bias: i === 0 ? p.bias : undefined,
    });
  const y = activation ? elementwise("activation", ["x"], () => activation)(sum!) : sum!;
  return p.residual ? add(y, p.residual) : y;
}

/** A result [M, N] in parts of its rows. */
function splitRows(p: Product, out: Tensor, parts: readonly Part[], run: Run): Tensor {
  const { a, transposeA } = p;
  const N = out.shape.at(-1)!;
  for (const part of parts)
    a.gpu.scope(() => {
      const y = run({
        ...p,
        a: transposeA ? columns(a, part) : rowsOf(a, part),
        residual: p.residual && rowsOf(p.residual, part),
      });
      a.gpu.copy(y, out, { toOffset: part.first * N });
    });
  return out;
}

/**
 * The product by parts, each made by `run`; undefined where one dispatch binds all, or where parts do not help: then the
 * dispatch is refused with the name of the tensor, its size and the limit. [M, N] is the result's shape.
 */
export function splitProduct(
  p: Product,
  M: number,
  N: number,
  dtype: ElementType,
  run: Run,
): Tensor | undefined {
  const { a, b } = p;
  if (a.rank !== 2 || b.rank !== 2 || p.rowsOfB !== undefined) return undefined;
  const rows = partsOf(a.gpu, M, N * BYTES_PER_ELEMENT[dtype]);
  if (rows.length > 1) return splitRows(p, a.gpu.empty([M, N], dtype), rows, run);
  const parts = matrixParts(b);
  if (parts.length <= 1) return undefined;
  return a.gpu.scope(() => (p.transposeB ? splitColumns : splitInner)(p, parts, run));
}
