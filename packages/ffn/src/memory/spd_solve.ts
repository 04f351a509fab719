import {
  applyOp,
  expectDType,
  expectShape,
  grid1d,
  matmul,
  neg,
  number,
  schema,
  type Config,
  type Tensor,
} from "@x/kernels";
import {
  BLOCK,
  equilibrate,
  factorDiagonal,
  factorPanel,
  factorUpdate,
  substitute,
} from "./spd_solve.wgsl.js";

interface Factor {
  /** Cholesky factor of the scaled matrix in the lower triangle. */
  readonly l: Tensor;
  /** The scale. */
  readonly d: Tensor;
}

const NAN_BITS = 0x7fc00000;

function factor(a: Tensor, n: number, ridge: number): Factor {
  const { gpu } = a;
  const l = gpu.empty([n, n]);
  const d = gpu.empty([n]);
  gpu.run(equilibrate, {
    bindings: { a, l, d },
    params: { n, ridge },
    workgroups: grid1d(Math.ceil((n * n) / 64)),
  });
  for (let first = 0; first < n; first += BLOCK) {
    gpu.run(factorDiagonal, { bindings: { l }, params: { n, first, nan: NAN_BITS }, workgroups: [1] });
    const below = n - first - BLOCK;
    if (below <= 0) break;
    const call = { bindings: { l }, params: { n, first } };
    gpu.run(factorPanel, { ...call, workgroups: [Math.ceil(below / 64)] });
    gpu.run(factorUpdate, { ...call, workgroups: [Math.ceil(below / 8), Math.ceil(below / 8)] });
  }
  return { l, d };
}

function solve({ l, d }: Factor, b: Tensor): Tensor {
  const [n = 0, columns = 0] = b.shape;
  const x = b.gpu.empty(b.shape);
  b.gpu.run(substitute, { bindings: { l, d, b, x }, params: { n, columns }, workgroups: grid1d(columns) });
  return x;
}

const OPTIONS = schema("spdSolve", {
  ridge: number("Added to the diagonal of A.", { min: 0, default: 0 }),
});
export type SpdSolveOptions = Config<typeof OPTIONS>;

/**
 * X of (A + ridge I) X = B for a symmetric positive definite A, by Cholesky factorisation; A is not inverted.
 *
 * A [n, n] f32, whose symmetry is not checked; B [n, m] f32. Differentiable in both: dB = A^-1 dX,
 * dA = -dB X^T. A singular A has the limit of a vanishing ridge: pivots below 2^-21 of the diagonal, which float32
 * cannot tell from 0, count as that. A matrix with a negative pivot, beyond rounding errors, gives NaN.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function spdSolve(a: Tensor, b: Tensor, options: SpdSolveOptions = {}): Tensor {
  const who = OPTIONS.name;
  const { ridge } = OPTIONS.read(options);
  for (const [name, t] of Object.entries({ a, b })) expectDType(who, name, t, "f32");
  const names = expectShape(who, "a", a, ["n", "n"]);
  expectShape(who, "b", b, ["n", null], names);
  const n = names["n"]!;
  return applyOp({
    name: who,
    inputs: [a, b],
    forward: () => {
      const { l, d } = factor(a, n, ridge);
      return { outputs: [solve({ l, d }, b)], saved: [l, d] };
    },
    backward: ({ grads, saved, outputs, needs }) => {
      const db = solve({ l: saved[0]!, d: saved[1]! }, grads[0]!);
      return [needs[0] ? neg(matmul(db, outputs[0]!, { transposeB: true })) : undefined, db];
    },
  })[0]!;
}
