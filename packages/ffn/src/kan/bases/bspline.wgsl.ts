import { basisKernels, type BasisKernels, type BasisVariant } from "./basis.js";

/*
 * B-splines of a KAN layer. An invocation owns one feature of one token: forward it writes its n bases,
 * backward it returns the slope of their weighted sum. Grid: tokens * features invocations in workgroups of
 * 64 (`basis.ts` makes `main`).
 *
 * Bindings, f32: x, dx [tokens, features]; grid [features, n + ORDER + 1], the knots, unless they are
 * uniform; phi, dphi [tokens, features, n].
 */

/**
 * B-splines of order ORDER on n + ORDER + 1 knots a feature: those of `grid`, or uniform ones. Of the n bases only ORDER + 1 are not zero
 * at a point: those of the knot interval ("cell") that holds it, from the triangle of Cox-de Boor. Bases that would
 * begin before the first knot or end after the last do not exist; what the triangle holds in their place is dropped.
 */
const shared = ({ order = 0, uniform = false }: BasisVariant): string => /* wgsl */ `
const ORDER = ${String(order)};
fn knot(feature: u32, j: i32) -> f32 {
  let knots = i32(params.n) + ORDER + 1;
  ${
    uniform
      ? "return params.low + f32(j - ORDER) * params.step;"
      : "return grid[i32(feature) * knots + clamp(j, 0, knots - 1)];"
  }
}
// The last interval whose left knot is not above x; -1 outside the knots.
fn cell_of(x: f32, feature: u32) -> i32 {
  let last = i32(params.n) + ORDER;
  if (!(x >= knot(feature, 0) && x < knot(feature, last))) { return -1; }
  var low = 0;
  var high = last;
  while (high - low > 1) {
    let middle = (low + high) / 2;
    if (knot(feature, middle) <= x) { low = middle; } else { high = middle; }
  }
  return low;
}
fn share(value: f32, width: f32) -> f32 { return select(value / width, 0.0, width == 0.0); }
// b[r] becomes the basis of order \`top\` that begins at knot cell - top + r.
fn triangle(x: f32, feature: u32, cell: i32, top: i32, b: ptr<function, array<f32, ORDER + 1>>) {
  (*b)[0] = 1.0;
  for (var d = 1; d <= top; d++) {
    var saved = 0.0;
    for (var r = 0; r < d; r++) {
      let left = knot(feature, cell + 1 - d + r);
      let right = knot(feature, cell + 1 + r);
      let part = share((*b)[r], right - left);
      (*b)[r] = saved + (right - x) * part;
      saved = (x - left) * part;
    }
    (*b)[d] = saved;
  }
}`;

export const bsplineKernels: BasisKernels = basisKernels(
  "kanBspline",
  {
    expand: (v) => /* wgsl */ `${shared(v)}
fn expand(x: f32, feature: u32, base: u32) {
  for (var j = 0u; j < params.n; j++) { phi[base + j] = 0.0; }
  let cell = cell_of(x, feature);
  if (cell < 0) { return; }
  var b: array<f32, ORDER + 1>;
  triangle(x, feature, cell, ORDER, &b);
  for (var r = 0; r <= ORDER; r++) {
    let j = cell - ORDER + r;
    if (j >= 0 && j < i32(params.n)) { phi[base + u32(j)] = b[r]; }
  }
}`,
    // B' = ORDER (b[j] / width of its support - b[j + 1] / width of its support), b one order lower.
    pull: (v) => /* wgsl */ `${shared(v)}
fn pull(x: f32, feature: u32, base: u32) -> f32 {
  let cell = cell_of(x, feature);
  if (cell < 0 || ORDER == 0) { return 0.0; }
  var b: array<f32, ORDER + 1>;
  triangle(x, feature, cell, ORDER - 1, &b);
  var total = 0.0;
  var previous = 0.0;
  for (var r = 0; r <= ORDER; r++) {
    var part = 0.0;
    if (r < ORDER) {
      let left = cell + 1 - ORDER + r;
      part = share(b[r], knot(feature, left + ORDER) - knot(feature, left));
    }
    let j = cell - ORDER + r;
    if (j >= 0 && j < i32(params.n)) { total += dphi[base + u32(j)] * (previous - part); }
    previous = part;
  }
  return f32(ORDER) * total;
}`,
  },
  true,
);
