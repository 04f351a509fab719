import {
  add,
  checkConfig,
  ConfigError,
  expectDType,
  expectNumber,
  expectOneOf,
  expectShape,
  matmul,
  mul,
  sub,
  transpose as transposed,
  type Tensor,
} from "@x/kernels";
import { spdSolve } from "./spd_solve.js";

export interface MemitFacts {
  /** Second moment of the keys, symmetric positive definite: [F, F]; its scale multiplies lambda. */
  readonly covariance: Tensor;
  /** [n, F] */
  readonly keys: Tensor;
  /** [n, O] */
  readonly values: Tensor;
}

export interface MemitOptions {
  /** Default "leastSquares". */
  readonly mode?: "leastSquares" | "exact";
  /** Weight of what is to stay, for "leastSquares"; default 1. */
  readonly lambda?: number;
}

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
export function memit(
  w: Tensor,
  { covariance, keys, values }: MemitFacts,
  options: MemitOptions = {},
): Tensor {
  const who = "memit";
  checkConfig(who, options, ["mode", "lambda"]);
  const { mode = "leastSquares" } = options;
  expectOneOf(who, "mode", mode, ["leastSquares", "exact"]);
  if (mode === "exact" && options.lambda !== undefined)
    throw new ConfigError(who, 'lambda is given; mode "exact" has none');
  const lambda = mode === "exact" ? 0 : (options.lambda ?? 1);
  expectNumber(who, "lambda", lambda, 0);
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
