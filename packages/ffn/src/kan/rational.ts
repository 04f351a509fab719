import {
  abs,
  add,
  e,
  elementwise,
  expectDType,
  expectShape,
  div,
  integer,
  oneOf,
  schema,
  ShapeError,
  showShape,
  slice,
  tensor,
  type Config,
  type Tensor,
} from "@x/kernels";

const OPTIONS = schema("katRational", {
  groups: integer("Consecutive equal groups of channels, each with a function of its own.", {
    min: 1,
    default: 8,
  }),
  denominator: oneOf(
    'Q: "sumAbs" is 1 + sum_j |b_j| |x|^j, what the authors compute; "absSum" is 1 + |sum_j b_j x^j|, the paper.',
    ["sumAbs", "absSum"],
    { default: "sumAbs" },
  ),
});
const WEIGHTS = schema("katRational", {
  numerator: tensor("a: [groups, m + 1], or [1, m + 1] shared by the groups."),
  denominator: tensor("b: [groups, n]."),
});
export type KatRationalOptions = Config<typeof OPTIONS>;
export type KatRationalWeights = Config<typeof WEIGHTS>;

const horner = elementwise("horner", ["sum", "x", "a"], (sum, x, a) => e.add(e.mul(sum, x), a));

/** sum_j a_j x^j from the highest power down: x [rows, groups, width], a [groups or 1, count]. */
function polynomial(x: Tensor, a: Tensor): Tensor {
  const [groups = 0, count = 0] = a.shape;
  const coefficient = (j: number): Tensor =>
    slice(a, { axis: 1, start: j, end: j + 1 }).reshape([1, groups, 1]);
  let sum = coefficient(count - 1);
  for (let j = count - 2; j >= 0; j--) sum = horner(sum, x, coefficient(j));
  return sum;
}

/**
 * The activation of the Kolmogorov-Arnold Transformer, a rational function for each group of channels:
 * out = P(x) / Q(x), P = sum_{j=0..m} a_j x^j, Q = 1 + sum_{j=1..n} |b_j| |x|^j, which has no zeros. A linear layer after
 * it makes a group-rational KAN layer.
 *
 * x [..., dim] f32, numerator a [groups or 1, m + 1], denominator b [groups, n]; the authors have m = 5, n = 4. Yang and
 * Wang 2024, arXiv:2409.10594, equations 9-10.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function katRational(
  x: Tensor,
  weights: KatRationalWeights,
  options: KatRationalOptions = {},
): Tensor {
  const who = OPTIONS.name;
  expectDType(who, "x", x, "f32");
  const { numerator, denominator } = WEIGHTS.read(weights);
  const { groups, denominator: kind } = OPTIONS.read(options);
  const dim = x.shape.at(-1) ?? 0;
  if (dim === 0 || dim % groups !== 0)
    throw new ShapeError(
      who,
      `x has shape ${showShape(x.shape)}; its last axis must be a multiple of groups, ${groups}`,
    );
  for (const [name, given] of Object.entries({ numerator, denominator })) {
    expectDType(who, name, given, "f32");
    const shared = name === "numerator" && given.shape[0] === 1;
    expectShape(who, name, given, [shared ? 1 : groups, "coefficients"]);
    if (given.shape[1] === 0)
      throw new ShapeError(who, `${name} has shape ${showShape(given.shape)}; it must have a coefficient`);
  }
  return x.gpu.scope(() => {
    const rows = x.reshape([x.size / dim, groups, dim / groups]);
    const p = polynomial(rows, numerator);
    // The sum from j = 1 is x times a polynomial of one degree less.
    const size = abs(rows);
    const q =
      kind === "sumAbs"
        ? horner(polynomial(size, abs(denominator)), size, 1)
        : add(abs(horner(polynomial(rows, denominator), rows, 0)), 1);
    return div(p, q).reshape(x.shape);
  });
}
