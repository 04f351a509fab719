import {
  add,
  cast,
  checkConfig,
  concat,
  e,
  elementwise,
  expectDType,
  expectInteger,
  expectOneOf,
  expectShape,
  mul,
  ShapeError,
  showShape,
  slice,
  sub,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import { checkPositions } from "./rope.js";

const cosine = elementwise("ropeCos", ["position", "invFreq"], (p, w) => e.cos(e.mul(p, w)));
const sine = elementwise("ropeSin", ["position", "invFreq"], (p, w) => e.sin(e.mul(p, w)));

/**
 * RoPE with trained frequencies: as `RotaryEmbedding`, with invFreq [n] a parameter that gets a gradient. Angles are
 * computed on the device in float32, so positions should stay in the thousands.
 *
 * x and the result [batch, heads, seq, headDim], f32 or f16 (turned in float32); positions [seq] or [batch * seq].
 */
export function learnedRope(
  gpu: Gpu,
  x: Tensor,
  invFreq: Tensor,
  options: {
    readonly positions?: ArrayLike<number>;
    readonly positionOffset?: number;
    /** i32 [batch, seq] on the GPU. */
    readonly positionIds?: Tensor | undefined;
    readonly layout?: "half" | "interleaved";
  } = {},
): Tensor {
  const who = "learnedRope";
  checkConfig(who, options, ["positions", "positionOffset", "positionIds", "layout"]);
  const { positionOffset = 0, layout = "half" } = options;
  expectInteger(who, "positionOffset", positionOffset, 0);
  expectOneOf(who, "layout", layout, ["half", "interleaved"]);
  expectDType(who, "x", x, "f32", "f16");
  if (x.dtype === "f16")
    return gpu.scope(() => cast(learnedRope(gpu, cast(x, "f32"), invFreq, options), "f16"));
  if (x.rank !== 4)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [batch, heads, seq, headDim]`);
  const [batch, heads, seq, dim] = x.shape as [number, number, number, number];
  if (invFreq.rank !== 1 || invFreq.size === 0)
    throw new ShapeError(who, `invFreq has shape ${showShape(invFreq.shape)}; it must be [pairs]`);
  const n = invFreq.size;
  if (2 * n > dim) throw new ShapeError(who, `invFreq has ${n} entries; headDim is ${dim}`);
  const { positionIds } = options;
  if (positionIds) expectShape(who, "positionIds", positionIds, [batch, seq]);
  const ids = options.positions ?? Int32Array.from({ length: seq }, (_, i) => positionOffset + i);
  const { perBatch } = checkPositions(who, ids, batch, seq);
  return gpu.scope(() => {
    const position = positionIds
      ? cast(positionIds, "f32").reshape([batch, 1, seq, 1])
      : gpu.tensor(ids, perBatch ? [batch, 1, seq, 1] : [seq, 1]);
    const [cos, sin] = [cosine(position, invFreq), sine(position, invFreq)];
    const parts = (): [Tensor, Tensor] => {
      if (layout === "half")
        return [slice(x, { axis: 3, end: n }), slice(x, { axis: 3, start: n, end: 2 * n })];
      const turned = slice(x, { axis: 3, end: 2 * n }).reshape([batch, heads, seq, n, 2]);
      return [0, 1].map((c) =>
        slice(turned, { axis: 4, start: c, end: c + 1 }).reshape([batch, heads, seq, n]),
      ) as [Tensor, Tensor];
    };
    const [a, b] = parts();
    const [first, second] = [sub(mul(a, cos), mul(b, sin)), add(mul(b, cos), mul(a, sin))];
    const rest = 2 * n < dim ? [slice(x, { axis: 3, start: 2 * n })] : [];
    if (layout === "half") return concat([first, second, ...rest], 3);
    const wide = (t: Tensor): Tensor => t.reshape([batch, heads, seq, n, 1]);
    return concat([concat([wide(first), wide(second)], 4).reshape([batch, heads, seq, 2 * n]), ...rest], 3);
  });
}
