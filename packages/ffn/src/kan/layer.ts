import {
  expectRecord,
  integer,
  randomUniform,
  type ComponentPart,
  type Draw,
  type Parameters,
  type Tensor,
} from "@x/kernels";

/** Sizes of a KAN layer. */
export const SHAPE = {
  inFeatures: integer("Width of x.", { min: 1 }),
  outFeatures: integer("Width of the result.", { min: 1 }),
};

/** A layer [..., in] -> [..., out] whose edges are functions. */
export interface KanLayer extends ComponentPart {
  forward(x: Tensor): Tensor;
  dispose(): void;
}

/** Kaiming's uniform values with a = sqrt 5 for a matrix [out, in]: within 1 / sqrt(in). */
export const kaiming: Draw = (gpu, shape, random) => {
  const high = 1 / Math.sqrt(shape.at(-1)!);
  return randomUniform(gpu, shape, { ...random, low: -high, high });
};

/**
 * Parts a checkpoint's tensors into the planned parameters and the grids, which are there only once the knots were
 * moved.
 *
 * @throws ConfigError
 */
export function withoutGrids(
  caller: string,
  parameters: Parameters,
  grid: RegExp,
): { readonly planned: Parameters; readonly grids: Parameters } {
  expectRecord(caller, "parameters", parameters);
  const entries = Object.entries(parameters);
  return {
    planned: Object.fromEntries(entries.filter(([name]) => !grid.test(name))),
    grids: Object.fromEntries(entries.filter(([name]) => grid.test(name))),
  };
}
