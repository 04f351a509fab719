import { checkConfig, expectDType, expectShape, matmul, type Tensor } from "@x/kernels";

/**
 * Second moment of the keys of a feed-forward block (the activations that enter its second matrix):
 * keys^T keys / n, or the plain sum. The mean is not taken off.
 *
 * keys [n, F] f32; result [F, F]. Meng et al. 2022, arXiv:2202.05262, section 3.1.
 *
 * @throws ShapeError, DTypeError
 */
export function keyCovariance(
  keys: Tensor,
  options: { /** Default true. */ readonly mean?: boolean } = {},
): Tensor {
  const who = "keyCovariance";
  checkConfig(who, options, ["mean"]);
  expectDType(who, "keys", keys, "f32");
  expectShape(who, "keys", keys, ["n", "F"]);
  const n = Math.max(keys.shape[0]!, 1);
  return matmul(keys, keys, { transposeA: true, alpha: (options.mean ?? true) ? 1 / n : 1 });
}
