import { rowElement, rowMain, rowPrelude, type BindingSpec, type RowVariant } from "@x/kernels";

/** How a row's divisor follows from its mean square (`m` squared, over the first k features) or its length. */
export type Divisor = "inside" | "outside" | "length";

export interface RowNormVariant extends RowVariant {
  readonly center: boolean;
  readonly divisor: Divisor;
  readonly weight: string | undefined;
  readonly bias: string | undefined;
  /** Only the first k features enter the statistic. */
  readonly partial: boolean;
  /** x is first added to residualScale residual; the sum is an output too. */
  readonly residual: boolean;
}

export const rowNormParams = {
  rows: "u32",
  width: "u32",
  /** Features in the statistic. */
  k: "u32",
  eps: "f32",
  /** Added to the weight: 1 where it is stored as a difference from 1. */
  offset: "f32",
  residual_scale: "f32",
} as const;

const bind = (access: "read" | "write" | "read_write", element: string): BindingSpec =>
  `${access} ${element}`;

export function forwardBindings(v: RowNormVariant): Record<string, BindingSpec> {
  return {
    x: bind("read", rowElement(v)),
    ...(v.residual
      ? { residual: bind("read", rowElement(v)), total: bind("read_write", rowElement(v)) }
      : {}),
    ...(v.weight === undefined ? {} : { weight: bind("read", rowElement(v, v.weight)) }),
    ...(v.bias === undefined ? {} : { bias: bind("read", rowElement(v, v.bias)) }),
    out: bind("write", rowElement(v)),
    stats: bind("write", "vec2<f32>"),
  };
}

/** r(m): what a row is divided by. */
const divisor = (v: RowNormVariant): string =>
  ({ inside: "sqrt(m * m + params.eps)", outside: "m + params.eps", length: "max(m, params.eps)" })[
    v.divisor
  ];

/** d r / d x_i = x_i rate(m, r), for the features in the statistic. */
const rate = (v: RowNormVariant): string =>
  ({
    inside: "1.0 / (f32(params.k) * r)",
    outside: "select(0.0, 1.0 / (f32(params.k) * m), m > 0.0)",
    length: "select(0.0, 1.0 / m, m > params.eps)",
  })[v.divisor];

/** 1 for the features in the statistic, 0 for the others. */
const inside = (v: RowNormVariant): string =>
  !v.partial
    ? "T(1.0)"
    : v.vec
      ? "select(T(0.0), T(1.0), vec4u(4u * i, 4u * i + 1u, 4u * i + 2u, 4u * i + 3u) < vec4u(params.k))"
      : "select(0.0, 1.0, i < params.k)";

const factor = (v: RowNormVariant): string =>
  v.weight === undefined ? "" : " * (T(weight[i]) + params.offset)";

export function rowNormForward(v: RowNormVariant): string {
  const x = v.residual ? "T(total[first + i])" : "T(x[first + i])";
  return /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  ${
    v.residual
      ? // The norm sees the sum as it is stored: the backward starts from there.
        `for (var i = lane; i < pieces; i += WIDTH) {
    total[first + i] = ${rowElement(v)}(params.residual_scale * T(residual[first + i]) + T(x[first + i]));
  }`
      : ""
  }
  var mean = 0.0;
  ${
    v.center
      ? `var s = T(0.0);
  for (var i = lane; i < pieces; i += WIDTH) { s += ${x}; }
  mean = row_sum(fold_sum(s), lane) / f32(params.width);`
      : ""
  }
  var q = T(0.0);
  for (var i = lane; i < pieces; i += WIDTH) { let d = ${x} - mean; q += ${inside(v)} * d * d; }
  let m = sqrt(row_sum(fold_sum(q), lane)${v.divisor === "length" ? "" : " / f32(params.k)"});
  let scale = 1.0 / (${divisor(v)});
  for (var i = lane; i < pieces; i += WIDTH) {
    out[first + i] = ${rowElement(v)}((${x} - mean) * scale${factor(v)}${v.bias === undefined ? "" : " + T(bias[i])"});
  }
  if (lane == 0u) { stats[row] = vec2f(mean, m); }`,
)}`;
}

export function backwardBindings(v: RowNormVariant): Record<string, BindingSpec> {
  return {
    x: bind("read", rowElement(v)),
    grad: bind("read", rowElement(v)),
    stats: bind("read", "vec2<f32>"),
    ...(v.weight === undefined ? {} : { weight: bind("read", rowElement(v, v.weight)) }),
    // With a residual: the cotangent of the sum, added to the norm's gradient.
    ...(v.residual ? { more: bind("read", rowElement(v)) } : {}),
    dx: bind("write", rowElement(v)),
  };
}

/** dx_i = (g_i - mean(g)) / r - x_i rate sum_j(g_j x_j) / r^2, with x centred and g the cotangent times the weight. */
export function rowNormBackward(v: RowNormVariant): string {
  return /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  `
  let mean = stats[row].x;
  let m = stats[row].y;
  let r = ${divisor(v)};
  var gx = T(0.0);
  var gs = T(0.0);
  for (var i = lane; i < pieces; i += WIDTH) {
    let g = T(grad[first + i])${factor(v)};
    gx += g * (T(x[first + i]) - mean);
    ${v.center ? "gs += g;" : ""}
  }
  let slope = row_sum(fold_sum(gx), lane) * (${rate(v)}) / (r * r);
  let level = ${v.center ? "row_sum(fold_sum(gs), lane) / f32(params.width)" : "0.0"};
  for (var i = lane; i < pieces; i += WIDTH) {
    let g = T(grad[first + i])${factor(v)};
    let d = (g - level) / r - ${inside(v)} * (T(x[first + i]) - mean) * slope;
    dx[first + i] = ${rowElement(v)}(d${v.residual ? " + T(more[first + i])" : ""});
  }`,
)}`;
}

/** Partial sums over chunks of rows: dweight = sum cot xh, dbias = sum cot. */
export function columnBindings(v: RowNormVariant): Record<string, BindingSpec> {
  return {
    x: bind("read", rowElement(v)),
    grad: bind("read", rowElement(v)),
    stats: bind("read", "vec2<f32>"),
    dweight: bind("write", v.vec ? "vec4<f32>" : "f32"),
    dbias: bind("write", v.vec ? "vec4<f32>" : "f32"),
  };
}

export const columnParams = {
  rows: "u32",
  width: "u32",
  k: "u32",
  eps: "f32",
  chunk: "u32",
  chunks: "u32",
} as const;

export function rowNormColumns(v: RowNormVariant): string {
  return /* wgsl */ `
alias T = ${v.vec ? "vec4f" : "f32"};
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.y * groups.x * 64u + id.x;
  let pieces = params.width / ${v.vec ? "4u" : "1u"};
  if (index >= params.chunks * pieces) { return; }
  let i = index % pieces;
  let c = index / pieces;
  let last = min((c + 1u) * params.chunk, params.rows);
  var dw = T(0.0);
  var db = T(0.0);
  for (var row = c * params.chunk; row < last; row++) {
    let mean = stats[row].x;
    let m = stats[row].y;
    let g = T(grad[row * pieces + i]);
    dw += g * (T(x[row * pieces + i]) - mean) / (${divisor(v)});
    db += g;
  }
  dweight[index] = dw;
  dbias[index] = db;
}`;
}
