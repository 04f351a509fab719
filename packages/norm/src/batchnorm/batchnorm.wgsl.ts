import { flatMain } from "@x/kernels";
import type { BindingSpec } from "@x/kernels";

/*
 * Batch normalisation in five kernels: `statistics` of chunks of rows, `merge` of the chunks, `apply`, and
 * backward `sums` and `backward`.
 *
 * An invocation owns a piece of the features (four where the width is a multiple of four, else one) over one
 * chunk of rows. `merge` has one chunk, and an invocation walks over the chunks of `statistics` in order.
 * Grid: chunks * pieces invocations in workgroups of 64, folded into two axes; nothing is shared within a
 * workgroup.
 *
 * Bindings, f32 but for the mask: x, grad, out, dx [rows, width]; mask [rows] i32, 0 for padding; weight,
 * bias, running_mean, running_var, next_mean, next_var [width]; means, squares [chunks, width]; counts
 * [chunks]; stats [3, width]: the mean, 1 / deviation, and the number of valid rows; partial
 * [2, chunks, width]; totals [2, width].
 */

export interface BatchNormVariant {
  /** Four neighbouring features at a time. */
  readonly vec: boolean;
  readonly mask: boolean;
  readonly weight: boolean;
  readonly bias: boolean;
  /** Statistics of the batch, or the running ones. */
  readonly training: boolean;
}

export const batchNormParams = {
  rows: "u32",
  width: "u32",
  /** Rows of an invocation, and the number of such chunks. */
  chunk: "u32",
  chunks: "u32",
  eps: "f32",
  momentum: "f32",
  /** Degrees of freedom that the running variance does not count: 1 for the sample variance, 0 for the population's. */
  spare: "f32",
} as const;

type Bindings = Record<string, BindingSpec>;
const element = (v: BatchNormVariant): string => (v.vec ? "vec4<f32>" : "f32");
const when = (present: boolean, bindings: Bindings): Bindings => (present ? bindings : {});
const masked = (v: BatchNormVariant): Bindings => when(v.mask, { mask: "read i32" });

/** Head of `main`: an invocation owns piece i of the features over the rows start..stop-1 of chunk c. */
const main = (v: BatchNormVariant, body: string): string => /* wgsl */ `
alias T = ${v.vec ? "vec4f" : "f32"};
${flatMain("index")}
  let pieces = params.width / ${v.vec ? "4u" : "1u"};
  if (index >= params.chunks * pieces) { return; }
  let i = index % pieces;
  let c = index / pieces;
  let start = c * params.chunk;
  let stop = min(start + params.chunk, params.rows);
  ${body}
}`;
const valid = (v: BatchNormVariant): string => (v.mask ? "mask[row] != 0" : "true");

/** Mean and sum of squared differences of each chunk by Welford's updates, and its number of valid rows. */
export const statistics = {
  bindings: (v: BatchNormVariant): Bindings => ({
    x: `read ${element(v)}`,
    ...masked(v),
    means: `write ${element(v)}`,
    squares: `write ${element(v)}`,
    counts: "write f32",
  }),
  wgsl: (v: BatchNormVariant): string =>
    main(
      v,
      `var mean = T(0.0);
  var square = T(0.0);
  var count = 0.0;
  for (var row = start; row < stop; row++) {
    if (${valid(v)}) {
      let value = x[row * pieces + i];
      count += 1.0;
      let d = value - mean;
      mean += d * (1.0 / count);
      square += d * (value - mean);
    }
  }
  means[index] = mean;
  squares[index] = square;
  if (i == 0u) { counts[c] = count; }`,
    ),
};

/** The chunks' statistics merged in order (Chan et al. 1983), 1 / sqrt(var + eps), and the next running ones. */
export const merge = {
  bindings: (v: BatchNormVariant): Bindings => ({
    ...when(v.training, { means: `read ${element(v)}`, squares: `read ${element(v)}`, counts: "read f32" }),
    running_mean: `read ${element(v)}`,
    running_var: `read ${element(v)}`,
    // [mean, 1 / deviation, number of valid rows] of each feature.
    stats: `write ${element(v)}`,
    ...when(v.training, { next_mean: `write ${element(v)}`, next_var: `write ${element(v)}` }),
  }),
  wgsl: (v: BatchNormVariant): string =>
    main(
      v,
      v.training
        ? `var mean = T(0.0);
  var square = T(0.0);
  var count = 0.0;
  for (var k = 0u; k < stop; k++) {
    let more = counts[k];
    let total = max(count + more, 1.0);
    let d = means[k * pieces + i] - mean;
    mean += d * (more / total);
    square += squares[k * pieces + i] + d * d * (count * more / total);
    count += more;
  }
  let variance = square / max(count, 1.0);
  next_mean[i] = running_mean[i] + params.momentum * (mean - running_mean[i]);
  next_var[i] = running_var[i] + params.momentum * (square / max(count - params.spare, 1.0) - running_var[i]);
  stats[i] = mean;
  stats[pieces + i] = 1.0 / sqrt(variance + params.eps);
  stats[2u * pieces + i] = T(max(count, 1.0));`
        : `stats[i] = running_mean[i];
  stats[pieces + i] = 1.0 / sqrt(running_var[i] + params.eps);
  stats[2u * pieces + i] = T(1.0);`,
    ),
};

/** out = (x - mean) / deviation * weight + bias; 0 for padded rows. */
export const apply = {
  bindings: (v: BatchNormVariant): Bindings => ({
    x: `read ${element(v)}`,
    ...masked(v),
    stats: `read ${element(v)}`,
    ...when(v.weight, { weight: `read ${element(v)}` }),
    ...when(v.bias, { bias: `read ${element(v)}` }),
    out: `write ${element(v)}`,
  }),
  wgsl: (v: BatchNormVariant): string =>
    main(
      v,
      `let mean = stats[i];
  let scale = stats[pieces + i]${v.weight ? " * weight[i]" : ""};
  let shift = ${v.bias ? "bias[i]" : "T(0.0)"};
  for (var row = start; row < stop; row++) {
    let at = row * pieces + i;
    out[at] = select(T(0.0), (x[at] - mean) * scale + shift, ${valid(v)});
  }`,
    ),
};

/** Sums of each chunk: of cot xh, then of cot. */
export const sums = {
  bindings: (v: BatchNormVariant): Bindings => ({
    x: `read ${element(v)}`,
    grad: `read ${element(v)}`,
    ...masked(v),
    stats: `read ${element(v)}`,
    partial: `write ${element(v)}`,
  }),
  wgsl: (v: BatchNormVariant): string =>
    main(
      v,
      `let mean = stats[i];
  var along = T(0.0);
  var level = T(0.0);
  for (var row = start; row < stop; row++) {
    if (${valid(v)}) {
      let cot = grad[row * pieces + i];
      along += cot * (x[row * pieces + i] - mean);
      level += cot;
    }
  }
  partial[index] = along * stats[pieces + i];
  partial[params.chunks * pieces + index] = level;`,
    ),
};

/** dx = (g - sum(g) / N - xh sum(g xh) / N) / deviation in training, g / deviation otherwise. */
export const backward = {
  bindings: (v: BatchNormVariant): Bindings => ({
    ...when(v.training, { x: `read ${element(v)}`, totals: `read ${element(v)}` }),
    grad: `read ${element(v)}`,
    ...masked(v),
    stats: `read ${element(v)}`,
    ...when(v.weight, { weight: `read ${element(v)}` }),
    dx: `write ${element(v)}`,
  }),
  wgsl: (v: BatchNormVariant): string =>
    main(
      v,
      `let scale = stats[pieces + i]${v.weight ? " * weight[i]" : ""};
  ${
    v.training
      ? `let mean = stats[i];
  let n = stats[2u * pieces + i];
  let slope = totals[i] * stats[pieces + i] / n;
  let level = totals[pieces + i] / n;`
      : ""
  }
  for (var row = start; row < stop; row++) {
    let at = row * pieces + i;
    let d = grad[at]${v.training ? " - level - (x[at] - mean) * slope" : ""};
    dx[at] = select(T(0.0), d * scale, ${valid(v)});
  }`,
    ),
};
