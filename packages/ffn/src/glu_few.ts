import { defineKernel, exprFunction, type Expr, type Tensor } from "@x/kernels";

/** Rows up to which one kernel reads both matrices; beyond, the tiles of two products reuse what they load. */
export const FEW_ROWS = 2;

interface FewVariant {
  /** x and the weights are read by vec4. */
  readonly vec: boolean;
  readonly rows: number;
  readonly x: string;
  readonly weights: string;
  readonly bGate: string | undefined;
  readonly bUp: string | undefined;
  /** g(x) * up. */
  readonly unit: Expr;
}

/** A workgroup makes this many outputs of a row: two by each eight threads. */
const OUTPUTS = 16;

const each = (n: number, text: (i: number) => string): string =>
  Array.from({ length: n }, (_, i) => text(i)).join("\n  ");

/** Eight threads stride along a row of either matrix; partial sums (gate, up) meet in workgroup memory. */
const fewKernel = defineKernel({
  name: "gluFew",
  bindings: (v: FewVariant) => {
    const element = (dtype: string): string => (v.vec ? `vec4<${dtype}>` : dtype);
    return {
      x: `read ${element(v.x)}`,
      wGate: `read ${element(v.weights)}`,
      wUp: `read ${element(v.weights)}`,
      ...(v.bGate === undefined ? {} : { bGate: `read ${v.bGate}` }),
      ...(v.bUp === undefined ? {} : { bUp: `read ${v.bUp}` }),
      out: "write f32",
    };
  },
  params: { width: "u32", features: "u32" },
  wgsl: (v) => /* wgsl */ `
alias T = ${v.vec ? "vec4f" : "f32"};
fn fold(x: T) -> f32 { return ${v.vec ? "(x.x + x.y) + (x.z + x.w)" : "x"}; }
${exprFunction("unit", ["x", "up"], v.unit)}
var<workgroup> partial: array<vec2f, ${String(128 * v.rows)}>;
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
  let first = group.x * ${String(OUTPUTS)}u;
  let c0 = min(first + thread / 8u * 2u, params.features - 1u) * params.width;
  let c1 = min(first + thread / 8u * 2u + 1u, params.features - 1u) * params.width;
  ${each(2 * v.rows, (i) => `var g${i} = T(); var u${i} = T();`)}
  for (var k = thread % 8u; k < params.width; k += 8u) {
    let g_0 = T(wGate[c0 + k]);
    let g_1 = T(wGate[c1 + k]);
    let u_0 = T(wUp[c0 + k]);
    let u_1 = T(wUp[c1 + k]);
    ${each(
      v.rows,
      (r) =>
        `let x${r} = T(x[${r}u * params.width + k]);
    g${2 * r} += x${r} * g_0; g${2 * r + 1} += x${r} * g_1; u${2 * r} += x${r} * u_0; u${2 * r + 1} += x${r} * u_1;`,
    )}
  }
  ${each(2 * v.rows, (i) => `partial[${i * 64}u + thread] = vec2f(fold(g${i}), fold(u${i}));`)}
  workgroupBarrier();
  if (thread >= ${String(OUTPUTS * v.rows)}u) { return; }
  let at = thread / 8u * 64u + thread % 8u * 8u;
  var sum = vec2f();
  for (var i = 0u; i < 8u; i++) { sum += partial[at + i]; }
  let feature = first + thread % 8u * 2u + thread / 8u % 2u;
  if (feature >= params.features) { return; }
  ${v.bGate === undefined ? "" : "sum.x += f32(bGate[feature]);"}
  ${v.bUp === undefined ? "" : "sum.y += f32(bUp[feature]);"}
  out[thread / 16u * params.features + feature] = unit(sum.x, sum.y);
}`,
});

/**
 * A gated linear unit of at most `FEW_ROWS` rows in one kernel, without a gradient, as decoding needs it: `unit` is
 * g(x) * up as an expression of "x" (the gate's product) and "up".
 *
 * x [..., in], wGate and wUp [out, in] of one dtype, biases [out]; the result is f32 [..., out].
 */
export function gluFew(
  x: Tensor,
  weights: {
    readonly wGate: Tensor;
    readonly wUp: Tensor;
    readonly bGate?: Tensor | undefined;
    readonly bUp?: Tensor | undefined;
  },
  unit: Expr,
): Tensor {
  const { wGate, wUp, bGate, bUp } = weights;
  const [features, width] = wGate.shape as [number, number];
  const vec = width % 4 === 0;
  const out = x.gpu.empty([...x.shape.slice(0, -1), features]);
  x.gpu.run(fewKernel, {
    variant: {
      vec,
      rows: x.size / width,
      x: x.dtype,
      weights: wGate.dtype,
      bGate: bGate?.dtype,
      bUp: bUp?.dtype,
      unit,
    },
    bindings: { x, wGate, wUp, bGate, bUp, out },
    params: { width: vec ? width / 4 : width, features },
    workgroups: [Math.ceil(features / OUTPUTS)],
  });
  return out;
}
