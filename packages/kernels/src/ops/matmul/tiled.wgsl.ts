import { storeFunction } from "./epilogue.wgsl.js";
import { loads } from "./loads.wgsl.js";
import { batchOffsets, placement } from "./placement.wgsl.js";
import { each, vec4f } from "./text.js";
import type { MatmulVariant } from "./variant.js";

/*
 * A matrix product by tiles in workgroup memory. A workgroup of 16 x 16 invocations owns a tile of (16 *
 * rows) x (16 * rows) outputs, `rows` being 4 or 8; an invocation owns `rows` x `rows` of them, in pieces of
 * 4 x 4 that lie 64 apart. Grid [ceil(M / (16 * rows)), ceil(N / (16 * rows)), matrices].
 *
 * Bindings: a, b, bias, residual, offsets and out, as `loads.wgsl.ts`, `epilogue.wgsl.ts` and
 * `placement.wgsl.ts` describe them; sums are f32.
 */

/** Threads of a workgroup along each side of its tile. */
const SIDE = 16;

/** Rows and columns of a workgroup's tile: 16 x 16 threads hold `rows` x `rows` outputs each. */
export const tileOf = (rows: number): number => SIDE * rows;

/** Rows of a thread, four or eight, by which both operands' tiles fill 16 KiB, the least that an adapter offers. */
const stepOf = (rows: number): number => 128 / rows;

/** `a` or `b` as the tile sees it: `extent` goes along rows or columns of the output. */
function operandOf(v: MatmulVariant, name: "a" | "b") {
  const [extent, first, end] =
    name === "a" ? ["params.M", "row0", "row_end"] : ["params.N", "col0", "params.N"];
  const alongK = name === "a" ? !v.transposeA : v.transposeB;
  // Stored [extent, K] or [K, extent]: the last axis is the one of which memory holds neighbours.
  const [outerEnd, innerEnd, stride] = alongK ? [end, "k_end", "params.K"] : ["k_end", end, extent];
  const vec = name === "a" ? v.vecA : v.vecB;
  return { name, alongK, first, outerEnd, innerEnd, stride, vec };
}

type Operand = ReturnType<typeof operandOf>;

/** `a_four(base, outer, inner, outer_end, inner_end)`: four neighbours of the last axis, zero past an edge. */
const fourFunction = ({ name, stride, vec }: Operand): string => /* wgsl */ `
fn ${name}_four(base: u32, outer: u32, inner: u32, outer_end: u32, inner_end: u32) -> vec4f {
  var four = vec4f();
  if (outer < outer_end) {
    let index = base + outer * ${stride} + inner;
    ${
      vec
        ? `if (inner < inner_end) { four = ${name}4_at(index); }`
        : `for (var i = 0u; i < 4u; i++) { if (inner + i < inner_end) { four[i] = ${name}_at(index + i); } }`
    }
  }
  return four;
}`;

/**
 * Both operands staged in workgroup memory as vec4 along the output, right on any adapter. A thread stages a block of
 * 4 x 4 of one operand; it reads the next one while it multiplies. Of an element that is loaded, tileOf(rows) outputs
 * are made; of a vec4 from workgroup memory, 4 rows.
 */
export function tiledMatmul(v: MatmulVariant): string {
  const { rows } = v;
  const [tile, step, fours] = [tileOf(rows), stepOf(rows), rows / 4];
  const line = tile / 4;
  const operands = (["a", "b"] as const).map((name) => operandOf(v, name));
  const byOperand = (statement: (o: Operand) => string): string =>
    `if (thread < 128u) { ${statement(operands[0]!)} } else { ${statement(operands[1]!)} }`;
  // Neighbouring threads read neighbouring memory.
  const block = ({ alongK }: Operand): string =>
    alongK
      ? `along = block / ${step / 4}u * 4u; k = block % ${step / 4}u * 4u;`
      : `along = block % ${line}u * 4u; k = block / ${line}u * 4u;`;
  const read = (o: Operand): string =>
    each(4, (i) => {
      const [outer, inner] = o.alongK
        ? [`${o.first} + along + ${i}u`, "k0 + k"]
        : [`k0 + k + ${i}u`, `${o.first} + along`];
      return `own${i} = ${o.name}_four(${o.name}Base, ${outer}, ${inner}, ${o.outerEnd}, ${o.innerEnd});`;
    });
  const stage = (o: Operand): string =>
    each(4, (k) => {
      const value = o.alongK ? vec4f((i) => `own${i}[${k}]`) : `own${k}`;
      return `tile_${o.name}[(k + ${k}u) * ${line}u + along / 4u] = ${value};`;
    });
  const multiply = (i: number): string =>
    each(fours, (j) => {
      const acc = `acc${i * fours + j}`;
      return `${acc} = fma(vec4f(x${i >> 2}[${i & 3}]), y${j}, ${acc});`;
    });
  return /* wgsl */ `
${batchOffsets(v)}
${loads(v)}
${operands.map(fourFunction).join("")}
${storeFunction(v)}
var<private> result: array<vec4f, ${rows * fours}>;
var<workgroup> tile_a: array<vec4f, ${step * line}>;
var<workgroup> tile_b: array<vec4f, ${step * line}>;
@compute @workgroup_size(${SIDE * SIDE})
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  ${placement(v, tile)}
  let col0 = group.y * ${tile}u;
  let r = thread / ${SIDE}u;
  let c = thread % ${SIDE}u;
  let block = thread % 128u;
  var along: u32;
  var k: u32;
  ${byOperand(block)}
  ${each(4, (i) => `var own${i}: vec4f;`)}
  ${each(rows * fours, (i) => `var acc${i} = vec4f();`)}
  var k0 = k_first;
  ${byOperand(read)}
  while (k0 < k_end) {
    ${byOperand(stage)}
    workgroupBarrier();
    k0 += ${step}u;
    if (k0 < k_end) { ${byOperand(read)} }
    for (var at = 0u; at < ${step * line}u; at += ${line}u) {
      ${each(fours, (i) => `let x${i} = tile_a[at + r + ${i * SIDE}u]; let y${i} = tile_b[at + c + ${i * SIDE}u];`)}
      ${each(rows, multiply)}
    }
    workgroupBarrier();
  }
  ${each(rows * fours, (i) => `result[${i}] = acc${i};`)}
  for (var i = 0u; i < ${rows * fours}u; i++) {
    let line = i / ${fours}u;
    let row = row0 + (r + line / 4u * ${SIDE}u) * 4u + line % 4u;
    if (row < row_end) { store(z, row, col0 + (c + i % ${fours}u * ${SIDE}u) * 4u, biasBase, result[i]); }
  }
}`;
}
