import {
  cast,
  checkConfig,
  div,
  expectNumber,
  logSumExp,
  maximum,
  mean,
  mul,
  square,
  sum,
  type Tensor,
} from "@x/kernels";
import { tokenMask } from "./load_balance_loss.js";

/**
 * Router z-loss: alpha mean over tokens of (log sum_e exp logits)^2, which keeps logits small; [1].
 *
 * logits [..., experts]; mask [...]: tokens with 0 are left out of the mean. Zoph et al. 2022, arXiv:2202.08906,
 * equation 5.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function routerZLoss(
  logits: Tensor,
  options: { readonly alpha?: number; readonly mask?: Tensor | undefined } = {},
): Tensor {
  const who = "routerZLoss";
  checkConfig(who, options, ["alpha", "mask"]);
  const { alpha = 1, mask } = options;
  expectNumber(who, "alpha", alpha);
  return logits.gpu.scope(() => {
    const z = square(logSumExp(logits));
    if (!mask) return mul(mean(z), alpha).reshape([1]);
    const weight = cast(tokenMask(who, logits, mask), "f32");
    const total = sum(mul(z.reshape([weight.size]), weight));
    return mul(div(total, maximum(sum(weight), 1)), alpha).reshape([1]);
  });
}
