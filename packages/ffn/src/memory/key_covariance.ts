import { boolean, expectDType, expectShape, matmul, schema, type Config, type Tensor } from "@x/kernels";

const OPTIONS = schema("keyCovariance", {
  mean: boolean("Divide by the number of keys.", { default: true }),
});
export type KeyCovarianceOptions = Config<typeof OPTIONS>;

/**
 * Second moment of the keys of a feed-forward block (the activations that enter its second matrix):
 * keys^T keys / n, or the plain sum. The mean is not taken off.
 *
 * keys [n, F] f32; result [F, F]. Meng et al. 2022, arXiv:2202.05262, section 3.1.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function keyCovariance(keys: Tensor, options: KeyCovarianceOptions = {}): Tensor {
  const who = OPTIONS.name;
  const { mean } = OPTIONS.read(options);
  expectDType(who, "keys", keys, "f32");
  const { n = 0 } = expectShape(who, "keys", keys, ["n", "F"]);
  return matmul(keys, keys, { transposeA: true, alpha: mean ? 1 / Math.max(n, 1) : 1 });
}
