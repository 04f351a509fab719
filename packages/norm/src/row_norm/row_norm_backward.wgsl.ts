import { rowElement, type BindingSpec } from "@x/kernels";
import {
  bind,
  centred,
  divisor,
  inside,
  ofBatch,
  present,
  rowNormMain,
  rowNormPrelude,
  type RowNormVariant,
} from "./row_norm.wgsl.js";

/*
 * The backward of a norm over the last axis. Workgroups, invocations and the grid are those of
 * `row_norm.wgsl.ts`; a workgroup besides owns one line of each sum over rows, and adds the rows of its chunk
 * to it in order.
 *
 * Bindings: x, grad, more, dx, dresidual [rows, width], f32 or f16, where x is the sum with the residual if
 * there is one; weight [width], f32 or f16; gain [1] f32; stats [rows] of vec2 f32, from the forward; sums
 * [kinds, groups, width] f32, the weight's and then the bias's gradient of each workgroup; dgain [groups]
 * f32.
 */

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
  const element = rowElement(v);
  return present({
    x: bind("read", element),
    grad: bind("read", element),
    stats: "read vec2<f32>",
    weight: v.weight && bind("read", rowElement(v, v.weight)),
    gain: v.gain && "read f32",
    dgain: v.gain && "write f32",
    more: v.more && bind("read", element),
    dx: bind("write", element),
    dresidual: v.dresidual && bind("write", element),
    // [weight, bias][chunks, width]: each lane adds to its own columns of its group's row.
    sums: (v.dweight || v.dbias) && bind("read_write", v.vec ? "vec4<f32>" : "f32"),
  });
}

/** d r / d x_i = x_i rate(m, r), for the features in the statistic. */
const rate = (v: RowNormVariant): string =>
  ({
    inside: "reciprocal(f32(params.k) * r)",
    outside: "select(K(0.0), 1.0 / (f32(params.k) * m), m > K(0.0))",
    length: "select(K(0.0), 1.0 / m, m > K(params.eps))",
  })[v.divisor];

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
  // What the forward left of a row.
  const left = (number: (line: string) => string): string =>
    ofBatch(v, (r) => number(`min(row + ${r}, stop - 1u)`));
  return /* wgsl */ `
${rowNormPrelude(v)}
${rowNormMain(v, {
  start: v.gain ? "var total_gain = 0.0;" : "",
  batch: `${
    v.center
      ? `let base = ${left((line) => `first(T(x[${line} * pieces]))`)};
    let mean = ${left((line) => `stats[${line}].x`)};`
      : ""
  }
    let m = ${left((line) => `stats[${line}].y`)};
    let r = ${divisor(v)};
    let inverse = reciprocal(r);
    let rate = ${rate(v)} * inverse * inverse;
    ${v.gain ? "let factor = gain[0];" : ""}`,
  numbers: v.center ? ["along", "level"] : ["along"],
  block: /* wgsl */ `var gx: array<T, BLOCK>;
      ${v.center ? "var gs: array<T, BLOCK>;" : ""}
      ${v.center ? "var bases: array<f32, BLOCK>; var means: array<f32, BLOCK>;" : ""}
      for (var r = 0u; r < BLOCK; r++) {
        gx[r] = T(0.0);
        ${v.center ? "gs[r] = T(0.0); bases[r] = held(base, block + r); means[r] = held(mean, block + r);" : ""}
      }
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
    ${v.gain ? "let gained = held(along * inverse, lane % params.batch);\n    total_gain += select(0.0, gained, lane < count);" : ""}`,
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
          ${v.dweight ? "dw += cot * (value * inverse_r);" : ""}
          ${v.dbias ? "db += cot;" : ""}`,
  after: `${v.dweight ? column("dw", "0u") : ""}
        ${v.dbias ? column("db", second) : ""}`,
  end: v.gain
    ? "let gain_sum = row_sum(S(total_gain), lane); if (lane == 0u) { dgain[chunk] = pick(gain_sum, 0u); }"
    : "",
})}`;
}
