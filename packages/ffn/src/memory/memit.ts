import {
  add,
  ConfigError,
  expectDType,
  expectShape,
  matmul,
  mul,
  number,
  oneOf,
  schema,
  sub,
  tensor,
  transpose as transposed,
  type Config,
  type Tensor,
} from "@x/kernels";
import { spdSolve } from "./spd_solve.js";

const FACTS = schema("memit", {
  covariance: tensor(
    "Second moment of the keys, symmetric positive definite, [F, F]; its scale multiplies lambda.",
  ),
  keys: tensor("[n, F]"),
  values: tensor("[n, O]"),
});
const OPTIONS = schema("memit", {
  mode: oneOf(
    '"exact" meets every fact, "leastSquares" weighs them against what is to stay.',
    ["leastSquares", "exact"],
    {
      default: "leastSquares",
    },
  ),
  lambda: number('Weight of what is to stay; not with "exact".', { min: 0, defaultDoc: "1" }),
});
export type MemitFacts = Config<typeof FACTS>;
export type MemitOptions = Config<typeof OPTIONS>;

/**
 * Many facts in one second matrix. With K = keys^T and R = values^T - W K:
 * "leastSquares" W' = W + R K^T (lambda C + K K^T)^-1, the minimum of
 * lambda tr((W' - W) C (W' - W)^T) + sum_j |W' k_j - v_j|^2;
 * "exact" W' = W + R (K^T C^-1 K)^-1 (C^-1 K)^T, its limit at lambda 0, which meets every fact and needs
 * independent keys, n <= F.
 *
 * Up to F facts the system that is solved has a row per fact, lambda I + K^T C^-1 K, which is the same by Woodbury.
 *
 * w [O, F] f32; result [O, F]. Differentiable in w, keys and values. Meng et al. 2022, arXiv:2210.07229, equation 14.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function memit(w: Tensor, facts: MemitFacts, options: MemitOptions = {}): Tensor {
  const who = OPTIONS.name;
  const { covariance, keys, values } = FACTS.read(facts);
  const given = OPTIONS.read(options);
  const { mode } = given;
  if (mode === "exact" && given.lambda !== undefined)
    throw new ConfigError(who, 'lambda is given; mode "exact" has none');
  const lambda = mode === "exact" ? 0 : (given.lambda ?? 1);
  for (const [name, t] of Object.entries({ w, covariance, keys, values })) expectDType(who, name, t, "f32");
  const names = expectShape(who, "w", w, ["O", "F"]);
  expectShape(who, "covariance", covariance, ["F", "F"], names);
  expectShape(who, "keys", keys, ["n", "F"], names);
  expectShape(who, "values", values, ["n", "O"], names);
  const { F = 0, n = 0 } = names;
  if (mode === "exact" && n > F)
    throw new ConfigError(
      who,
      `there are ${String(n)} facts for keys of ${String(F)}; "exact" can meet at most ${String(F)}`,
    );
  return w.gpu.scope(() => {
    const missing = sub(values, matmul(keys, w, { transposeB: true })); // [n, O]
    if (n > F) {
      const metric = add(mul(covariance, lambda), matmul(keys, keys, { transposeA: true }));
      const change = spdSolve(metric, matmul(keys, missing, { transposeA: true })); // [F, O]
      return add(w, transposed(change));
    }
    const u = spdSolve(covariance, transposed(keys)); // [F, n]
    const weights = spdSolve(matmul(keys, u), missing, { ridge: lambda }); // [n, O]
    return add(w, matmul(weights, u, { transposeA: true, transposeB: true }));
  });
}
