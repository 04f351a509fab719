import {
  add,
  e,
  elementwise,
  expectDType,
  expectShape,
  matmul,
  number,
  schema,
  sub,
  tensor,
  type Config,
  type Tensor,
} from "@x/kernels";
import { spdSolve } from "./spd_solve.js";

const FACT = schema("rome", {
  covariance: tensor(
    "Second moment of the keys, symmetric positive definite, [F, F]; its scale does not matter.",
  ),
  key: tensor("What stands at the last token of the subject before the second matrix, [F]."),
  value: tensor("What the second matrix is to make of it, [O]."),
});
const OPTIONS = schema("rome", {
  ridge: number("Added to the diagonal of the covariance.", { min: 0, default: 0 }),
});
export type RomeFact = Config<typeof FACT>;
export type RomeOptions = Config<typeof OPTIONS>;

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
export function rome(w: Tensor, fact: RomeFact, options: RomeOptions = {}): RomeResult {
  const who = OPTIONS.name;
  const { covariance, key, value } = FACT.read(fact);
  const { ridge } = OPTIONS.read(options);
  for (const [name, t] of Object.entries({ w, covariance, key, value })) expectDType(who, name, t, "f32");
  const names = expectShape(who, "w", w, ["O", "F"]);
  expectShape(who, "covariance", covariance, ["F", "F"], names);
  expectShape(who, "key", key, ["F"], names);
  expectShape(who, "value", value, ["O"], names);
  const { O = 0, F = 0 } = names;
  return w.gpu.scope(() => {
    const column = key.reshape([F, 1]);
    const u = spdSolve(covariance, column, { ridge });
    const missing = sub(value.reshape([O, 1]), matmul(w, column));
    const lambda = factor(missing, matmul(u, column, { transposeA: true }));
    return {
      w: add(w, matmul(lambda, u, { transposeB: true })),
      lambda: lambda.reshape([O]),
      direction: u.reshape([F]),
    };
  });
}
