import { ShapeError } from "../../base/errors.js";
import type { Tensor } from "../../tensor/tensor.js";
import {
  checkConfig,
  expectFloat,
  expectNoMore,
  expectNumber,
  expectTensor,
  expectTensors,
  showShape,
} from "../../base/validate.js";

/** A change of a weight [out, in] of low rank: scale b a. */
export interface LowRank {
  /** [rank, in] */
  readonly a: Tensor;
  /** [out, rank] */
  readonly b: Tensor;
  /** Default 1. */
  readonly scale?: number;
}

const terms = new WeakMap<Tensor, LowRank[]>();

/**
 * From now on `linear` with this weight computes x (W + scale b a)^T, without changing W: x W^T + scale (x a^T) b^T. W may
 * be in a form that is only stored. Several changes of one weight add up; the product is differentiable in a and b. Other
 * operations, such as `embedding`, read W as it is. Returns a function that takes the change off again; the tensors of the
 * change stay the caller's. LoRA, Hu et al. 2021, arXiv:2106.09685, equation 3.
 *
 * weight [out, in], a [rank, in], b [out, rank]; a and b f32 or f16.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function adaptLinear(weight: Tensor, change: LowRank, ...rest: never[]): () => void {
  const who = "adaptLinear";
  expectTensor(who, "weight", weight);
  checkConfig(who, change, ["a", "b", "scale"]);
  expectNoMore(who, rest);
  const { a, b, scale = 1 } = change;
  expectTensors(who, { a, b });
  expectFloat(who, "a", a);
  expectFloat(who, "b", b);
  expectNumber(who, "scale", scale);
  const [out, width] = weight.shape;
  if (weight.rank !== 2)
    throw new ShapeError(who, `weight has shape ${showShape(weight.shape)}; it must be [out, in]`);
  if (a.rank !== 2 || a.shape[1] !== width)
    throw new ShapeError(who, `a has shape ${showShape(a.shape)}; it must be [rank, ${String(width)}]`);
  if (b.rank !== 2 || b.shape[0] !== out || b.shape[1] !== a.shape[0])
    throw new ShapeError(
      who,
      `b has shape ${showShape(b.shape)}; it must be [${String(out)}, ${String(a.shape[0])}]`,
    );
  const held = { a, b, scale };
  const list = terms.get(weight) ?? [];
  terms.set(weight, [...list, held]);
  return () => {
    const left = (terms.get(weight) ?? []).filter((one) => one !== held);
    if (left.length > 0) terms.set(weight, left);
    else terms.delete(weight);
  };
}

/** The changes of a weight. */
export const lowRankOf = (weight: Tensor): readonly LowRank[] => terms.get(weight) ?? [];

/** Whether `linear` with this weight computes more than x W^T, so that no other kernel can stand for it. */
export function isAdapted(weight: Tensor, ...rest: never[]): boolean {
  expectTensor("isAdapted", "weight", weight);
  expectNoMore("isAdapted", rest);
  return terms.has(weight);
}
