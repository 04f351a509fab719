import {
  add,
  cast,
  Component,
  concat,
  ConfigError,
  e,
  elementwise,
  expectDType,
  expectInteger,
  integer,
  mul,
  number,
  oneOf,
  schema,
  ShapeError,
  showShape,
  slice,
  sub,
  tensor,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { checkPositions, hostPositions, POSITIONS } from "../positions.js";
import { inverseFrequencies } from "./frequencies.js";

const LAYOUT = {
  layout: oneOf('Pairs (i, i + n), or "interleaved": (2 i, 2 i + 1).', ["half", "interleaved"], {
    default: "half",
  }),
};
const OPTIONS = schema("learnedRope", {
  invFreq: tensor("Radians per position of each pair, [pairs]."),
  ...POSITIONS,
  ...LAYOUT,
});
const APPLY = schema("LearnedRope.apply", POSITIONS);
const LEARNED_ROPE = schema("LearnedRope", {
  headDim: integer("Width of a head.", { min: 2 }),
  rotaryDim: integer("Features that turn, the first ones; even.", { min: 2, defaultDoc: "headDim" }),
  base: number("Base of the initial frequencies.", { min: Number.MIN_VALUE, default: 10000 }),
  ...LAYOUT,
});
export type LearnedRopeOptions = Config<typeof OPTIONS>;
export type LearnedRopeApplyOptions = Config<typeof APPLY>;
export type LearnedRopeConfig = Config<typeof LEARNED_ROPE>;

const cosine = elementwise("ropeCos", ["position", "invFreq"], (p, w) => e.cos(e.mul(p, w)));
const sine = elementwise("ropeSin", ["position", "invFreq"], (p, w) => e.sin(e.mul(p, w)));

/**
 * RoPE with trained frequencies: as `RotaryEmbedding`, with invFreq [pairs] a parameter that gets a gradient. Angles are
 * computed on the device in float32, so positions should stay in the thousands.
 *
 * x and the result [batch, heads, seq, headDim], f32 or f16 (turned in float32); positions [seq] or [batch * seq].
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function learnedRope(x: Tensor, options: LearnedRopeOptions): Tensor {
  const who = OPTIONS.name;
  expectDType(who, "x", x, "f32", "f16");
  const { invFreq, layout, ...given } = OPTIONS.read(options);
  const { gpu } = x;
  if (x.rank !== 4)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [batch, heads, seq, headDim]`);
  const [batch, heads, seq, dim] = x.shape as [number, number, number, number];
  expectDType(who, "invFreq", invFreq, "f32");
  if (invFreq.rank !== 1 || invFreq.size === 0)
    throw new ShapeError(who, `invFreq has shape ${showShape(invFreq.shape)}; it must be [pairs]`);
  const n = invFreq.size;
  if (2 * n > dim) throw new ShapeError(who, `invFreq has ${n} entries; headDim is ${dim}`);
  checkPositions(who, given, batch, seq);
  const { positionIds } = given;
  const { list, perBatch } = hostPositions(given, seq);
  for (let i = 0; i < list.length; i++) expectInteger(who, "positions", list[i]);
  if (x.dtype === "f16") return gpu.scope(() => cast(learnedRope(cast(x, "f32"), options), "f16"));
  return gpu.scope(() => {
    const position = positionIds
      ? cast(positionIds, "f32").reshape([batch, 1, seq, 1])
      : gpu.tensor(list, perBatch ? [batch, 1, seq, 1] : [seq, 1]);
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

/**
 * `learnedRope` with its frequencies, `inv_freq` [rotaryDim / 2], initially RoPE's, base^(-2 i / rotaryDim).
 */
export class LearnedRope extends Component<typeof LEARNED_ROPE> {
  static readonly schema = LEARNED_ROPE;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: LearnedRopeConfig): ParameterPlan {
    const { headDim, rotaryDim: d = headDim, base } = LEARNED_ROPE.read(config);
    if (d % 2 !== 0 || d > headDim)
      throw new ConfigError(
        LEARNED_ROPE.name,
        `rotaryDim is ${d}; it must be even and at most headDim (${headDim})`,
      );
    return {
      inv_freq: { shape: [d / 2], init: (gpu, shape) => gpu.tensor(inverseFrequencies({ d, base }), shape) },
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: LearnedRopeConfig, parameters: Parameters) {
    super(LEARNED_ROPE, config, LearnedRope.plan(config), parameters);
  }

  /** Turns queries or keys [batch, heads, seq, headDim], f32 or f16. @throws ConfigError, ShapeError, DTypeError */
  apply(x: Tensor, options: LearnedRopeApplyOptions = {}): Tensor {
    const { headDim, layout } = this.config;
    expectDType(APPLY.name, "x", x, "f32", "f16");
    if (x.shape.at(-1) !== headDim)
      throw new ShapeError(APPLY.name, `x has ${x.shape.at(-1) ?? 0} features a head; headDim is ${headDim}`);
    return learnedRope(x, { ...APPLY.read(options), layout, invFreq: this.weights["inv_freq"]! });
  }
}
