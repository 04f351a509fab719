import {
  cast,
  div,
  expectTensor,
  logSumExp,
  maximum,
  mean,
  mul,
  number,
  schema,
  square,
  sum,
  tensor,
  type Config,
  type Tensor,
} from "@x/kernels";
import { tokenMask } from "./load_balance_loss.js";

const OPTIONS = schema("routerZLoss", {
  alpha: number("Factor of the loss.", { default: 1 }),
  mask: tensor("i32 [...]: tokens with 0 are left out of the mean.", { optional: true }),
});
export type RouterZLossOptions = Config<typeof OPTIONS>;

/**
 * Router z-loss: alpha mean over tokens of (log sum_e exp logits)^2, which keeps logits small; [1].
 *
 * logits [..., experts]; mask [...]: tokens with 0 are left out of the mean. Zoph et al. 2022, arXiv:2202.08906,
 * equation 5.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function routerZLoss(logits: Tensor, options: RouterZLossOptions = {}): Tensor {
  const who = OPTIONS.name;
  expectTensor(who, "logits", logits);
  const { alpha, mask: given } = OPTIONS.read(options);
  const mask = given && tokenMask(who, logits, given);
  return logits.gpu.scope(() => {
    const z = square(logSumExp(logits));
    if (!mask) return mul(mean(z), alpha).reshape([1]);
    const weight = cast(mask, "f32");
    const total = sum(mul(z.reshape([weight.size]), weight));
    return mul(div(total, maximum(sum(weight), 1)), alpha).reshape([1]);
  });
}
