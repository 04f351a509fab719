import {
  either,
  expectDType,
  expectShape,
  number,
  ShapeError,
  showShape,
  tensor,
  type Field,
  type Tensor,
} from "@x/kernels";
import type { Beta } from "./activation.js";

/** beta of swish, as an option or a weight. */
export const BETA: Field<Beta, "optional"> = either(
  number("One beta for all features."),
  tensor("A beta that is trained, [1] or [dim]."),
  (given) => typeof given === "number",
  "Factor in the sigmoid of swish: a number, or a tensor [1] or [hidden] that is trained. Default: 1.",
  { optional: true },
);

/**
 * Returns the width of x [..., dim], f32 or f16, which must be that of the matrix [out, dim] it is multiplied with.
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function widthOf(caller: string, x: Tensor, name: string, matrix: Tensor): number {
  expectDType(caller, "x", x, "f32", "f16");
  const { width = 0 } = expectOperands(caller, { [name]: [matrix, ["out", "width"]] });
  if (x.shape.at(-1) !== width)
    throw new ShapeError(
      caller,
      `x has shape ${showShape(x.shape)}; its last axis must be ${width} (${name} is ${showShape(matrix.shape)})`,
    );
  return width;
}

/** A tensor that may be left out, and the shape that it must have; letters stand for extents. */
type Operand = readonly [Tensor | undefined, readonly (number | string)[]];

/**
 * Checks tensors of f32 or f16, and matrices in a form that is only stored, against their shapes before anything is
 * computed from them. Returns the extents by letter.
 *
 * @throws DTypeError, ShapeError
 */
export function expectOperands(
  caller: string,
  operands: Readonly<Record<string, Operand>>,
): Record<string, number> {
  const extents: Record<string, number> = {};
  for (const [name, [operand, shape]] of Object.entries(operands)) {
    if (operand === undefined) continue;
    // A matrix goes to linear, which also takes what is only stored.
    if (!operand.stored || shape.length !== 2) expectDType(caller, name, operand, "f32", "f16");
    expectShape(caller, name, operand, shape, extents);
  }
  return extents;
}
