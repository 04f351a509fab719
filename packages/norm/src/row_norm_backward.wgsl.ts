import { rowElement, type BindingSpec } from "@x/kernels";
import {
  bind,
  divisor,
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
    outside: "select(S(0.0), 1.0 / (f32(params.k) * m), m > S(0.0))",
    length: "select(S(0.0), 1.0 / m, m > S(params.eps))",
  })[v.divisor];

/**
 * dx_i = (g_i - mean(g)) / r - x_i rate sum_j(g_j x_j) / r^2, with x centred and g the cotangent times the weight;
 * dweight = sum cot xh and dbias = sum cot over the rows of a chunk on the way.
 */
export function rowNormBackward(v: RowNormBackwardVariant): string {
  const weighted = v.weight === undefined ? "" : " * factor";
  const factor = v.weight === undefined ? "" : "let factor = T(weight[i]) + params.offset;";
  const column = (name: string, slot: string): string => `{
        let slot = ${slot} + chunk * pieces + i;
        sums[slot] = select(sums[slot], T(0.0), row == start) + ${name};
      }`;
  const second = v.dweight ? "groups.x * groups.y * pieces" : "0u";
  return /* wgsl */ `
${rowNormPrelude(v)}
${rowNormMain(
  v,
  `var mean: S;
    var m: S;
    for (var r = 0u; r < BLOCK; r++) {
      let s = stats[min(row + r, stop - 1u)];
      ${of(v, "mean")} = s.x;
      ${of(v, "m")} = s.y;
    }
    let r = ${divisor(v, "m").replace("max(m, params.eps)", "max(m, S(params.eps))")};
    let inverse = 1.0 / r;
    let rate = ${rate(v)} * inverse * inverse;
    ${v.gain ? "let factor = gain[0];" : ""}
    var gx: array<T, BLOCK>;
    ${v.center ? "var gs: array<T, BLOCK>;" : ""}
    for (var r = 0u; r < BLOCK; r++) { gx[r] = T(0.0); ${v.center ? "gs[r] = T(0.0);" : ""} }
    for (var i = lane; i < pieces; i += WIDTH) {
      ${factor}
      for (var r = 0u; r < BLOCK; r++) {
        let g = T(grad[at[r] + i])${weighted};
        gx[r] += g * (T(x[at[r] + i]) - ${of(v, "mean")});
        ${v.center ? "gs[r] += g;" : ""}
      }
    }
    let along = row_sum(fold_rows(gx), lane);
    let slope = along * rate${v.gain ? " * factor" : ""};
    let level = ${v.center ? "row_sum(fold_rows(gs), lane) / f32(params.width)" : "S(0.0)"};
    ${
      v.gain
        ? `for (var r = 0u; r < BLOCK; r++) {
      total_gain += select(0.0, ${of(v, "along")} * ${of(v, "inverse")}, row + r < stop);
    }`
        : ""
    }
    for (var i = lane; i < pieces; i += WIDTH) {
      ${factor}
      ${v.dweight ? "var dw = T(0.0);" : ""}
      ${v.dbias ? "var db = T(0.0);" : ""}
      for (var r = 0u; r < BLOCK; r++) {
        let cot = T(grad[at[r] + i]);
        let centred = T(x[at[r] + i]) - ${of(v, "mean")};
        var d = (cot${v.gain ? " * factor" : weighted} - ${of(v, "level")}) * ${of(v, "inverse")} - ${inside(v)}centred * ${of(v, "slope")};
        ${v.more ? "d += T(more[at[r] + i]);" : ""}
        dx[at[r] + i] = E(d);
        ${v.dresidual ? "dresidual[at[r] + i] = E(params.residual_scale * d);" : ""}
        ${v.dweight ? `dw += select(T(0.0), cot * centred * ${of(v, "inverse")}, row + r < stop);` : ""}
        ${v.dbias ? "db += select(T(0.0), cot, row + r < stop);" : ""}
      }
      ${v.dweight ? column("dw", "0u") : ""}
      ${v.dbias ? column("db", second) : ""}
    }`,
  v.gain ? "if (lane == 0u) { dgain[chunk] = total_gain; }" : "",
)}`;
}
