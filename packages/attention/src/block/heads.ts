import { ConfigError, expectInteger, integer, linear, type Tensor } from "@x/kernels";

/** Width and heads of an attention layer. */
export const HEADS_FIELDS = {
  dim: integer("Width of x and of the output.", { min: 1 }),
  numHeads: integer("Heads.", { min: 1 }),
  headDim: integer("Features of a head.", { min: 1, defaultDoc: "dim / numHeads" }),
};

/** The features of a head, dim / numHeads where the configuration does not say. @throws ConfigError where that is not an integer */
export function headDimOf(
  who: string,
  {
    dim,
    numHeads,
    headDim = dim / numHeads,
  }: { dim: number; numHeads: number; headDim?: number | undefined },
): number {
  if (!Number.isInteger(headDim))
    throw new ConfigError(who, `numHeads is ${numHeads}; without headDim it must divide dim, ${dim}`);
  return headDim;
}

/** Checks that each head of the keys serves as many heads of the queries. @throws ConfigError */
export function expectGroups(who: string, numHeads: number, numKvHeads: number): void {
  expectInteger(who, "numKvHeads", numKvHeads, 1);
  if (numHeads % numKvHeads !== 0)
    throw new ConfigError(who, `numHeads is ${numHeads}; it must be a multiple of numKvHeads, ${numKvHeads}`);
}

/** x W^T + b, cut into heads: [batch, seq, heads, headDim]. */
export function splitHeads(x: Tensor, heads: number, weight: Tensor, bias?: Tensor): Tensor {
  const [batch, seq] = x.shape as [number, number];
  return linear(x, weight, bias).reshape([batch, seq, heads, weight.shape[0]! / heads]);
}

/** Join the heads of [batch, seq, heads, valueDim] and project: o W^T + b (+ residual). */
export function mergeHeads(o: Tensor, weight: Tensor, bias?: Tensor, residual?: Tensor): Tensor {
  const [batch, seq, heads, dim] = o.shape as [number, number, number, number];
  return linear(o.reshape([batch, seq, heads * dim]), weight, bias, { residual });
}
