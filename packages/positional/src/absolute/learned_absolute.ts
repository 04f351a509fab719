import {
  add,
  Component,
  embedding,
  expectDType,
  expectInteger,
  integer,
  matrix,
  schema,
  ShapeError,
  showShape,
  tensor,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { checkPositions, expectNoBound, hostPositions, POSITIONS } from "../positions.js";

const FIELDS = {
  ...POSITIONS,
  seqLen: integer("With `positionIds`: a bound that they are all below.", { min: 1, optional: true }),
};
const OPTIONS = schema("learnedAbsolute", {
  weight: tensor("A row for each position, [maxPositions, dim]."),
  ...FIELDS,
});
const FORWARD = schema("LearnedAbsolute.forward", FIELDS);
const LEARNED_ABSOLUTE = schema("LearnedAbsolute", {
  dim: integer("Width of x.", { min: 1 }),
  maxPositions: integer("Rows of the table: positions 0..maxPositions-1.", { min: 1 }),
});
export type LearnedAbsoluteOptions = Config<typeof OPTIONS>;
export type LearnedAbsoluteForwardOptions = Config<typeof FORWARD>;
export type LearnedAbsoluteConfig = Config<typeof LEARNED_ABSOLUTE>;

/**
 * Learned absolute positions: out[b, s] = x[b, s] + weight[position]. A position past the table is refused: there is
 * nothing to extrapolate from. Of positions on the GPU only their bound `seqLen` is known, which has to be within it.
 *
 * x [batch, seq, dim], weight [maxPositions, dim]; f32 or f16. Gehring et al. 2017, arXiv:1705.03122.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function learnedAbsolute(x: Tensor, options: LearnedAbsoluteOptions): Tensor {
  const who = OPTIONS.name;
  expectDType(who, "x", x, "f32", "f16");
  const { weight, seqLen, ...positions } = OPTIONS.read(options);
  if (x.rank !== 3)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must be [batch, seq, dim]`);
  const [batch, seq, dim] = x.shape as [number, number, number];
  expectDType(who, "weight", weight, "f32", "f16");
  if (weight.rank !== 2 || weight.shape[1] !== dim)
    throw new ShapeError(
      who,
      `weight has shape ${showShape(weight.shape)}; it must be [maxPositions, ${dim}]`,
    );
  const rows = weight.shape[0]!;
  checkPositions(who, positions, batch, seq);
  const { positionIds } = positions;
  if (positionIds) {
    expectInteger(who, "seqLen (with positionIds)", seqLen, 1, rows);
    return x.gpu.scope(() => add(x, embedding(weight, positionIds)));
  }
  expectNoBound(who, seqLen);
  const { list, perBatch } = hostPositions(positions, seq);
  for (let i = 0; i < list.length; i++) expectInteger(who, "positions", list[i], 0, rows - 1);
  return x.gpu.scope(() =>
    add(x, embedding(weight, x.gpu.tensor(list, perBatch ? [batch, seq] : [seq], "i32"))),
  );
}

/** `learnedAbsolute` with its table, `weight` [maxPositions, dim], initially normal of deviation 0.02. */
export class LearnedAbsolute extends Component<typeof LEARNED_ABSOLUTE> {
  static readonly schema = LEARNED_ABSOLUTE;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: LearnedAbsoluteConfig): ParameterPlan {
    const { dim, maxPositions } = LEARNED_ABSOLUTE.read(config);
    return { weight: matrix(maxPositions, dim) };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: LearnedAbsoluteConfig, parameters: Parameters) {
    super(LEARNED_ABSOLUTE, config, LearnedAbsolute.plan(config), parameters);
  }

  /** x [batch, seq, dim], f32 or f16; returns the same shape. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: LearnedAbsoluteForwardOptions = {}): Tensor {
    return learnedAbsolute(x, { ...FORWARD.read(options), weight: this.weights["weight"]! });
  }
}
