import { ConfigError, ShapeError } from "../base/errors.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  expectInteger,
  expectNoMore,
  expectOneOf,
  expectTensor,
  normalizeAxis,
  showShape,
} from "../base/validate.js";
import { gather } from "./indexing.js";
import { concat, slice } from "./shape.js";

/**
 * Where an added element comes from: the nearest element (`edge`), the mirror image about the first or the last
 * element, which are not repeated (`reflect`), or the other end (`wrap`).
 */
export type PadMode = "edge" | "reflect" | "wrap";

const MODES: readonly PadMode[] = ["edge", "reflect", "wrap"];

/** The element of an axis of n that stands at position i, which may lie outside 0..n-1. */
function source(mode: PadMode, i: number, n: number): number {
  if (mode === "edge" || n === 1) return Math.min(Math.max(i, 0), n - 1);
  const period = mode === "wrap" ? n : 2 * (n - 1);
  const at = ((i % period) + period) % period;
  return at < n ? at : period - at;
}

/**
 * Add `before` and `after` elements along an axis: of the value `fill`, or taken from the axis itself in one of the
 * modes. A negative count takes elements away, before anything is added.
 *
 * x [.., n, ..] of any dtype; result [.., before + n + after, ..]. Differentiable.
 *
 * @throws ShapeError, ConfigError
 */
export function pad(
  x: Tensor,
  axis: number,
  before: number,
  after: number,
  fill: number | PadMode = 0,
  ...rest: never[]
): Tensor {
  const who = "pad";
  expectTensor(who, "x", x);
  const along = normalizeAxis(who, axis, x.rank);
  expectInteger(who, "before", before);
  expectInteger(who, "after", after);
  expectNoMore(who, rest);
  if (typeof fill === "string") expectOneOf(who, "fill", fill, MODES);
  else if (typeof fill !== "number")
    throw new ConfigError(who, `fill is ${String(fill)}; it must be a number or one of ${MODES.join(", ")}`);
  const left = x.shape[along]! + Math.min(before, 0) + Math.min(after, 0);
  if (left < 0)
    throw new ShapeError(
      who,
      `before is ${before} and after is ${after}; they take away more than axis ${along} of ${showShape(x.shape)} has`,
    );
  const first = Math.max(before, 0);
  const last = Math.max(after, 0);
  return x.gpu.scope(() => {
    const kept =
      left === x.shape[along]
        ? x
        : slice(x, { axis: along, start: Math.max(-before, 0), end: Math.max(-before, 0) + left });
    if (first + last === 0) return kept.reshape(kept.shape);
    if (typeof fill === "string") {
      if (left === 0)
        throw new ShapeError(who, `axis ${along} holds no element that "${fill}" could take; use a value`);
      const at = Array.from({ length: first + left + last }, (_, i) => source(fill, i - first, left));
      return gather(kept, x.gpu.tensor(at, [at.length], "i32"), along);
    }
    const extra = (n: number): Tensor[] =>
      n === 0
        ? []
        : [
            x.gpu.full(
              kept.shape.map((m, i) => (i === along ? n : m)),
              fill,
              x.dtype,
            ),
          ];
    return concat([...extra(first), kept, ...extra(last)], along);
  });
}
