import {
  add,
  checkConfig,
  e,
  elementwise,
  expectDType,
  expectShape,
  matmul,
  sub,
  type Tensor,
} from "@x/kernels";
import { spdSolve } from "./spd_solve.js";

export interface RomeFact {
  /** Second moment of the keys, symmetric positive definite: [F, F]; its scale does not matter. */
  readonly covariance: Tensor;
  /** What stands at the last token of the subject before the second matrix: [F] */
  readonly key: Tensor;
  /** What the second matrix is to make of it: [O] */
  readonly value: Tensor;
}

/** missing / product, and 0 where there is nothing to divide by. */
const factor = elementwise("romeFactor", ["missing", "product"], (missing, product) => {
  const there = e.gt(e.abs(product), 0);
  return e.select(there, e.div(missing, e.select(there, product, 1)), 0);
});

export interface RomeResult {
  /** W' [O, F] */
  readonly w: Tensor;
  /** [O] */
  readonly lambda: Tensor;
  /** u [F] */
  readonly direction: Tensor;
}

/**
 * Rank-one edit of the second matrix of a feed-forward block: of all W' with W' key = value, the one that changes
 * other keys least in the metric of their covariance C.
 * u = (C + ridge I)^-1 key; lambda = (value - W key) / (u . key); W' = W + lambda u^T.
 *
 * Where C is singular, its limit of a vanishing ridge is meant (`spdSolve`). No W' gives a key of zeros a value:
 * W stays as it is.
 *
 * w [O, F] f32, stored [out, in]; take a bias off the value first. Differentiable in w, key and value.
 * Meng et al. 2022, arXiv:2202.05262, equation 2.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function rome(
  w: Tensor,
  { covariance, key, value }: RomeFact,
  options: { /** Default 0. */ readonly ridge?: number } = {},
): RomeResult {
  const who = "rome";
  checkConfig(who, options, ["ridge"]);
  for (const [name, t] of Object.entries({ w, covariance, key, value })) expectDType(who, name, t, "f32");
  const names = expectShape(who, "w", w, ["O", "F"]);
  expectShape(who, "covariance", covariance, ["F", "F"], names);
  expectShape(who, "key", key, ["F"], names);
  expectShape(who, "value", value, ["O"], names);
  const { O = 0, F = 0 } = names;
  return w.gpu.scope(() => {
    const column = key.reshape([F, 1]);
    const u = spdSolve(covariance, column, options);
    const missing = sub(value.reshape([O, 1]), matmul(w, column));
    const lambda = factor(missing, matmul(u, column, { transposeA: true }));
    return {
      w: add(w, matmul(lambda, u, { transposeB: true })),
      lambda: lambda.reshape([O]),
      direction: u.reshape([F]),
    };
  });
}
