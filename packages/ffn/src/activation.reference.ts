import type { ActivationKind } from "./activation.js";

/** erf by its Maclaurin series near 0, by a continued fraction of erfc far from it. */
export function erf(x: number): number {
  const z = Math.abs(x);
  if (z < 3) {
    let [term, sum] = [z, z];
    for (let n = 1; Math.abs(term) > 1e-18 * sum; n++) {
      term *= -(z * z) / n;
      sum += term / (2 * n + 1);
    }
    return (Math.sign(x) * 2 * sum) / Math.sqrt(Math.PI);
  }
  let f = z;
  for (let k = 60; k > 0; k--) f = z + k / 2 / f;
  return Math.sign(x) * (1 - Math.exp(-z * z) / (f * Math.sqrt(Math.PI)));
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

/** The activations in double precision. */
export const activationReference: Readonly<Record<ActivationKind, (x: number, beta?: number) => number>> = {
  identity: (x) => x,
  relu: (x) => Math.max(x, 0),
  squaredRelu: (x) => Math.max(x, 0) ** 2,
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  geluTanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  silu: (x) => x * sigmoid(x),
  swish: (x, beta = 1) => x * sigmoid(beta * x),
  mish: (x) => x * Math.tanh(Math.log1p(Math.exp(x))),
  sigmoid,
  tanh: Math.tanh,
  softplus: (x) => Math.log1p(Math.exp(x)),
};
