import { rowElement, type BindingSpec } from "@x/kernels";
import {
  bind,
  centred,
  divisor,
  eachRow,
  inside,
  of,
  rowNormMain,
  rowNormPrelude,
  type RowNormVariant,
} from "./row_norm.wgsl.js";

export interface RowNormBackwardVariant extends RowNormVariant {
  /** The cotangent of the sum is given, and added to the norm's gradient. */
  readonly more: boolean;
  /** The residual has a factor, so its gradient is another tensor. */
  readonly dresidual: boolean;
  /** Sums over rows are wanted: of the weight's gradient, then of the bias's. */
  readonly dweight: boolean;
  readonly dbias: boolean;
}

export function backwardBindings(v: RowNormBackwardVariant): Record<string, BindingSpec> {
  return {
    x: bind("read", rowElement(v)),
    grad: bind("read", rowElement(v)),
    stats: bind("read", "vec2<f32>"),
    ...(v.weight === undefined ? {} : { weight: bind("read", rowElement(v, v.weight)) }),
    ...(v.gain ? { gain: bind("read", "f32"), dgain: bind("write", "f32") } : {}),
    ...(v.more ? { more: bind("read", rowElement(v)) } : {}),
    dx: bind("write", rowElement(v)),
    ...(v.dresidual ? { dresidual: bind("write", rowElement(v)) } : {}),
    // [weight, bias][chunks, width]: each lane adds to its own columns of its group's row.
    ...(v.dweight || v.dbias ? { sums: bind("read_write", v.vec ? "vec4<f32>" : "f32") } : {}),
  };
}

/** d r / d x_i = x_i rate(m, r), for the features in the statistic. */
const rate = (v: RowNormVariant): string =>
  ({
    inside: "1.0 / (f32(params.k) * r)",
    outside: "select(K(0.0), 1.0 / (f32(params.k) * m), m > K(0.0))",
    length: "select(K(0.0), 1.0 / m, m > K(params.eps))",
  })[v.divisor];

/** The numbers of a batch's rows that the forward left, each a K. */
function saved(v: RowNormBackwardVariant): string {
  const row = (r: string): string =>
    v.center
      ? `first(T(x[min(row + ${r}, stop - 1u) * pieces])), stats[min(row + ${r}, stop - 1u)]`
      : `0.0, stats[min(row + ${r}, stop - 1u)]`;
  if (v.lanes > 0)
    return `let kept = vec3f(${row("lane")});
    let base = kept.x;
    let mean = kept.y;
    let m = kept.z;`;
  return `var base: K;
    var mean: K;
    var m: K;
    for (var r = 0u; r < BLOCK; r++) {
      let kept = vec3f(${row("r")});
      ${of(v, "base")} = kept.x;
      ${of(v, "mean")} = kept.y;
      ${of(v, "m")} = kept.z;
    }`;
}

/** What a block needs of them, by its own rows. */
const blockNumbers = (v: RowNormBackwardVariant): string => `var bases: array<f32, BLOCK>;
      var means: array<f32, BLOCK>;
      for (var r = 0u; r < BLOCK; r++) {
        bases[r] = ${v.lanes > 0 ? "subgroupShuffle(base, min(block + r, WIDTH - 1u))" : of(v, "base")};
        means[r] = ${v.lanes > 0 ? "subgroupShuffle(mean, min(block + r, WIDTH - 1u))" : of(v, "mean")};
      }`;

/**
 * dx_i = (g_i - mean(g)) / r - x_i rate sum_j(g_j x_j) / r^2, with x centred and g the cotangent times the weight;
 * dweight = sum cot xh and dbias = sum cot over the rows of a chunk on the way.
 */
export function rowNormBackward(v: RowNormBackwardVariant): string {
  const weighted = v.weight === undefined ? "" : " * factor";
  const factor = v.weight === undefined ? "" : "let factor = T(weight[i]) + params.offset;";
  const column = (name: string, place: string): string => `{
          let slot = ${place} + chunk * pieces + i;
          sums[slot] = select(sums[slot], T(0.0), row == start) + ${name};
        }`;
  const second = v.dweight ? "groups.x * groups.y * pieces" : "0u";
  const guard = (sum: string): string => (v.lanes > 0 ? sum : `select(T(0.0), ${sum}, row + r < stop)`);
  return /* wgsl */ `
${rowNormPrelude(v)}
${rowNormMain(v, {
  group: v.gain ? "var total_gain = 0.0;" : "",
  batch: `${saved(v)}
    let r = ${divisor(v)};
    let inverse = 1.0 / r;
    let rate = ${rate(v)} * inverse * inverse;
    ${v.gain ? "let factor = gain[0];" : ""}`,
  numbers: v.center ? ["along", "level"] : ["along"],
  block: /* wgsl */ `var gx: array<T, BLOCK>;
      ${v.center ? "var gs: array<T, BLOCK>;" : ""}
      ${v.center ? blockNumbers(v) : ""}
      for (var r = 0u; r < BLOCK; r++) { gx[r] = T(0.0); ${v.center ? "gs[r] = T(0.0);" : ""} }
      for (var i = lane; i < pieces; i += WIDTH) {
        ${factor}
        for (var r = 0u; r < BLOCK; r++) {
          let g = T(grad[at[r] + i])${weighted};
          gx[r] += g * ${v.center ? "(T(x[at[r] + i]) - bases[r] - means[r])" : "T(x[at[r] + i])"};
          ${v.center ? "gs[r] += g;" : ""}
        }
      }
      let along_sum = row_sum(fold_rows(gx), lane);
      ${v.center ? "let level_sum = row_sum(fold_rows(gs), lane) / f32(params.width);" : ""}`,
  derived: `let slope = along * rate${v.gain ? " * factor" : ""};
    ${v.gain ? eachRow(v, (name) => `total_gain += ${name("along")} * ${name("inverse")};`) : ""}`,
  before: `${factor}
      ${v.dweight ? "var dw = T(0.0);" : ""}
      ${v.dbias ? "var db = T(0.0);" : ""}`,
  held: v.center ? ["base", "mean", "inverse", "slope", "level"] : ["inverse", "slope"],
  row: `let cot = T(grad[slot]);
          let value = ${centred(v, "T(x[slot])")};
          var d = (cot${v.gain ? " * factor" : weighted}${v.center ? " - level_r" : ""}) * inverse_r - ${inside(v)}value * slope_r;
          ${v.more ? "d += T(more[slot]);" : ""}
          dx[slot] = E(d);
          ${v.dresidual ? "dresidual[slot] = E(params.residual_scale * d);" : ""}
          ${v.dweight ? `dw += ${guard("cot * (value * inverse_r)")};` : ""}
          ${v.dbias ? `db += ${guard("cot")};` : ""}`,
  after: `${v.dweight ? column("dw", "0u") : ""}
        ${v.dbias ? column("db", second) : ""}`,
  end: v.gain
    ? v.lanes > 0
      ? "let gain_sum = subgroupAdd(total_gain);\n  if (lane == 0u) { dgain[chunk] = gain_sum; }"
      : "if (lane == 0u) { dgain[chunk] = total_gain; }"
    : "",
})}`;
}
