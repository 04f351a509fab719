import { groupMain } from "@x/kernels";
import { complexWgsl } from "./complex.wgsl.js";

/*
 * The transformed form of a long convolution, by blocks of P tokens. A workgroup owns one block of two neighbouring channels of
 * one sequence, in its memory; an invocation a share of the block's values. Grid: batch blocks ceil(dim / 2) workgroups, for the
 * gradient of the filter blocks ceil(dim / 2).
 *
 * Bindings: spectra [batch, blocks, dim, P] of vec2, the real and the imaginary part; x and the results where the strides say.
 */

/** Lanes of a workgroup that transforms `size` numbers in its memory. */
export const fftLanes = (size: number): number => Math.min(256, size / 4);

/**
 * Stockham's transform of `data`, `size` complex numbers in workgroup memory, in its place and order: a pass of radix 2
 * where the size asks for it, then passes of radix 4 in a loop. X_k = sum_t x_t exp(sign 2 pi i k t / size); not scaled.
 * Begins when every lane has written its numbers, ends with all of them there to read.
 */
function transform(size: number, sign: 1 | -1): string {
  const lanes = fftLanes(size);
  const odd = Math.log2(size) % 2 === 1;
  /** Every lane reads what it combines, and all write when all have read. */
  const pass = (radix: 2 | 4, butterfly: string): string => /* wgsl */ `
    var v: array<vec2f, ${size / lanes}>;
    for (var i = 0u; i < ${size / radix / lanes}u; i++) {
      for (var q = 0u; q < ${radix}u; q++) { v[${radix}u * i + q] = data[lane + i * ${lanes}u + q * ${size / radix}u]; }
    }
    workgroupBarrier();
    for (var i = 0u; i < ${size / radix / lanes}u; i++) {
      let j = lane + i * ${lanes}u;
      ${butterfly}
    }
    workgroupBarrier();`;
  const two = pass(
    2,
    "data[2u * j] = v[2u * i] + v[2u * i + 1u]; data[2u * j + 1u] = v[2u * i] - v[2u * i + 1u];",
  );
  const four = pass(
    4,
    /* wgsl */ `let k = j & (done - 1u);
      let to = 4u * (j - k) + k;
      let w = turn(f32(k) * unit);
      let w2 = cmul(w, w);
      let b = cmul(w, v[4u * i + 1u]);
      let c = cmul(w2, v[4u * i + 2u]);
      let f = cmul(cmul(w2, w), v[4u * i + 3u]);
      let d = b - f;
      let even = v[4u * i] + c;
      let odd = v[4u * i] - c;
      let turned = ${sign === 1 ? "vec2f(-d.y, d.x)" : "vec2f(d.y, -d.x)"};
      data[to] = even + b + f;
      data[to + done] = odd + turned;
      data[to + 2u * done] = even - b - f;
      data[to + 3u * done] = odd - turned;`,
  );
  return /* wgsl */ `workgroupBarrier();
  ${odd ? `{${two}\n  }` : ""}
  var unit = ${(sign * 0.25) / (odd ? 2 : 1)};
  for (var done = ${odd ? 2 : 1}u; done < ${size}u; done *= 4u) {${four}
    unit *= 0.25;
  }`;
}

const start = (block: number): string => /* wgsl */ `
${complexWgsl}
const P = ${block}u;
const LANES = ${fftLanes(2 * block)}u;
var<workgroup> data: array<vec2f, ${2 * block}>;
${groupMain("index", undefined, fftLanes(2 * block))}
  // Two neighbouring channels go through one transform, as real and imaginary part.
  let pairs = (params.dim + 1u) / 2u;
  let d = 2u * (index % pairs);
  let two = d + 1u < params.dim;`;

/**
 * Spectra of blocks of P values, each followed by P zeros: a workgroup owns block m of channels d, d + 1 of sequence b.
 * out[b, m, d, k] for k < P; the real bin P is the imaginary part of the real bin 0.
 */
export const spectra = (v: { readonly block: number }): string => /* wgsl */ `
${start(v.block)}
  let m = index / pairs % params.blocks;
  let b = index / (pairs * params.blocks);
  let base = b * params.stride_b + d * params.stride_d;
  for (var t = lane; t < P; t += LANES) {
    let at = m * P + t;
    var value = vec2f();
    if (at < params.seq && b < params.batch) {
      value.x = x[base + at * params.stride_t];
      if (two) { value.y = x[base + at * params.stride_t + params.stride_d]; }
    }
    data[t] = value;
    data[t + P] = vec2f();
  }
  ${transform(2 * v.block, -1)}
  if (b >= params.batch) { return; }
  let row = ((b * params.blocks + m) * params.dim + d) * P;
  for (var k = lane; k < P; k += LANES) {
    let z = data[k];
    var one = vec2f(z.x, data[P].x);
    var other = vec2f(z.y, data[P].y);
    if (k > 0u) {
      let mirror = conj(data[2u * P - k]);
      one = 0.5 * (z + mirror);
      let off = 0.5 * (z - mirror);
      other = vec2f(off.y, -off.x);
    }
    out[row + k] = one;
    if (two) { out[row + P + k] = other; }
  }
}`;

/** Which product of spectra: y = filter * x, or the gradient of x or of the filter. */
export interface ProductVariant {
  readonly block: number;
  readonly of: "y" | "x" | "filter";
}

/**
 * A block of P results of channels d, d + 1: the first half of the transform back of
 *
 *   y, block i:       sum over j of F_j (X_{i-j} + s X_{i-j-1}),
 *   d x, block i:     sum over j of conj(F_j) (G_{i+j} + s G_{i+j+1}),
 *   d filter, block i: sum over b, m of G_m conj(X_{m-i} + s X_{m-i-1}),
 *
 * where s = (-1)^k shifts a block by its length, so that each pair is a window of two blocks.
 */
export const product = (v: ProductVariant): string => {
  const filter = v.of === "filter";
  const { count, left, right, next } = {
    y: { count: "min(block + 1u, params.filter_blocks)", left: "j", right: "block - j", next: "right > 0u" },
    x: {
      count: "min(params.blocks - block, params.filter_blocks)",
      left: "j",
      right: "block + j",
      next: "right + 1u < params.blocks",
    },
    filter: {
      count: "params.blocks - min(block, params.blocks)",
      left: "block + j",
      right: "j",
      next: "right > 0u",
    },
  }[v.of];
  const step = v.of === "x" ? "1" : "-1";
  const terms = {
    y: "cmul(l, w)",
    x: "cmul(conj(l), w)",
    filter: "cmul(l, conj(w))",
  }[v.of];
  const each = Math.max(1, v.block / fftLanes(2 * v.block));
  return /* wgsl */ `
fn times(k: u32, l: vec2f, w: vec2f) -> vec2f { return select(${terms}, l * w, k == 0u); }
${start(v.block)}
  let rows = ${filter ? "params.filter_blocks" : "params.blocks"};
  let block = index / pairs % rows;
  let b_own = index / (pairs * rows);
  let inside = b_own < ${filter ? "1u" : "params.batch"};
  var sums: array<vec2f, ${2 * each}>;
  ${filter ? "for (var b = 0u; b < params.batch; b++) {" : "{ let b = b_own;"}
    let count = select(0u, ${count}, inside);
    for (var j = 0u; j < count; j++) {
      let right = ${right};
      let at_l = ((${filter ? "b * params.blocks + " : ""}${left}) * params.dim + d) * P;
      let at_r = ((b * params.blocks + right) * params.dim + d) * P;
      let beside = ${next};
      let at_n = ${step === "1" ? "at_r + params.dim * P" : "at_r - select(0u, params.dim * P, beside)"};
      for (var i = 0u; i < ${each}u; i++) {
        let k = lane + i * LANES;
        let s = select(0.0, select(1.0, -1.0, (k & 1u) == 1u), beside);
        var w = r[at_r + k];
        if (beside) { w += s * r[at_n + k]; }
        sums[2u * i] += times(k, l[at_l + k], w);
        if (two) {
          w = r[at_r + P + k];
          if (beside) { w += s * r[at_n + P + k]; }
          sums[2u * i + 1u] += times(k, l[at_l + P + k], w);
        }
      }
    }
  }
  for (var i = 0u; i < ${each}u; i++) {
    let k = lane + i * LANES;
    let one = sums[2u * i];
    let other = sums[2u * i + 1u];
    if (k == 0u) {
      data[0] = vec2f(one.x, other.x);
      data[P] = vec2f(one.y, other.y);
    } else {
      data[k] = vec2f(one.x - other.y, one.y + other.x);
      data[2u * P - k] = vec2f(one.x + other.y, other.x - one.y);
    }
  }
  ${transform(2 * v.block, 1)}
  if (!inside) { return; }
  let base = b_own * params.stride_b + d * params.stride_d;
  for (var t = lane; t < P; t += LANES) {
    let at = block * P + t;
    if (at >= params.length) { break; }
    out[base + at * params.stride_t] = data[t].x * ${1 / (2 * v.block)};
    if (two) { out[base + at * params.stride_t + params.stride_d] = data[t].y * ${1 / (2 * v.block)}; }
  }
}`;
};
