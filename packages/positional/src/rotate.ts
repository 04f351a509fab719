import {
  applyOp,
  defineKernel,
  DTypeError,
  grid1d,
  ShapeError,
  showShape,
  type Kernel,
  type Tensor,
} from "@x/kernels";

/** Order of the axes of queries and keys. */
export type HeadLayout = "bhsd" | "bshd";

interface RotateVariant {
  readonly dtype: string;
  readonly interleaved: boolean;
  /** Four neighbouring features at a time ("half" only). */
  readonly vec: boolean;
  readonly positions: boolean;
}

/** x' = x cos - y sin, y' = y cos + x sin for the pairs of the first 2n features; the rest pass. */
const rotateKernel: Kernel<RotateVariant> = defineKernel({
  name: "rope",
  bindings: (v: RotateVariant) => ({
    x: `read ${v.vec ? `vec4<${v.dtype}>` : v.dtype}` as const,
    cos_table: `read ${v.vec ? "vec4<f32>" : "f32"}` as const,
    sin_table: `read ${v.vec ? "vec4<f32>" : "f32"}` as const,
    ...(v.positions ? { positions: "read i32" as const } : {}),
    out: `write ${v.vec ? `vec4<${v.dtype}>` : v.dtype}` as const,
  }),
  params: {
    count: "u32",
    dim: "u32",
    pairs: "u32",
    /** Elements between neighbours in the sequence, and its length. */
    inner: "u32",
    seq: "u32",
    rows: "u32",
    offset: "i32",
    batch_size: "u32",
    sign: "f32",
  },
  wgsl: (v) => /* wgsl */ `
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.y * groups.x * 64u + id.x;
  if (i >= params.count) { return; }
  let d = i % params.dim;
  if (d >= 2u * params.pairs) { out[i] = x[i]; return; }
  let s = i / params.inner % params.seq;
  let b = i / params.batch_size;
  let position = ${v.positions ? "u32(positions[b * params.seq + s])" : "u32(params.offset) + s"};
  let row = min(position, params.rows - 1u) * params.pairs;
  ${
    v.interleaved
      ? `let at = row + d / 2u;
  let second = d % 2u == 1u;
  let other = f32(x[select(i + 1u, i - 1u, second)]);`
      : `let second = d >= params.pairs;
  let at = row + select(d, d - params.pairs, second);
  let other = ${v.vec ? "vec4f" : "f32"}(x[select(i + params.pairs, i - params.pairs, second)]);`
  }
  let own = ${v.vec ? "vec4f" : "f32"}(x[i]);
  let turn = params.sign * sin_table[at];
  out[i] = ${v.vec ? `vec4<${v.dtype}>` : v.dtype}(own * cos_table[at] + select(-turn, turn, second) * other);
}`,
});

/** Tables of one rotation: f32 [rows, pairs], and which row each token takes. */
export interface Rotation {
  readonly cos: Tensor;
  readonly sin: Tensor;
  readonly interleaved: boolean;
  /** Row of the first token, when rows are positions. */
  readonly offset?: number;
  /** i32 [batch, seq]: row of each token. */
  readonly positions?: Tensor | undefined;
}

/** Turn the feature pairs of queries or keys; the gradient turns back. */
export function rotate(who: string, x: Tensor, rotation: Rotation, layout: HeadLayout): Tensor {
  const { cos, sin, interleaved, offset = 0, positions } = rotation;
  if (x.dtype !== "f32" && x.dtype !== "f16")
    throw new DTypeError(who, `x is ${x.dtype}; it must be f32 or f16`);
  if (x.rank !== 4)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; it must have four axes (${layout})`);
  const [batch, a, b, dim] = x.shape as [number, number, number, number];
  const seq = layout === "bhsd" ? b : a;
  const [rows, pairs] = cos.shape as [number, number];
  if (2 * pairs > dim) throw new ShapeError(who, `x has ${dim} features a head; ${2 * pairs} are to turn`);
  if (positions) {
    if (positions.dtype !== "i32")
      throw new DTypeError(who, `positions are ${positions.dtype}; they must be i32`);
    if (positions.rank !== 2 || positions.shape[0] !== batch || positions.shape[1] !== seq) {
      throw new ShapeError(
        who,
        `positions have shape ${showShape(positions.shape)}; it must be [${batch}, ${seq}]`,
      );
    }
  }
  const vec = !interleaved && pairs % 4 === 0 && dim % 4 === 0;
  const unit = vec ? 4 : 1;
  const inner = (layout === "bhsd" ? dim : dim * b) / unit;
  const run = (t: Tensor, sign: number): Tensor => {
    const out = t.gpu.empty(t.shape, t.dtype);
    const count = t.size / unit;
    t.gpu.run(rotateKernel, {
      variant: { dtype: t.dtype, interleaved, vec, positions: positions !== undefined },
      bindings: { x: t, cos_table: cos, sin_table: sin, ...(positions ? { positions } : {}), out },
      params: {
        count,
        dim: dim / unit,
        pairs: pairs / unit,
        inner,
        seq,
        rows,
        offset,
        batch_size: Math.max(1, count / Math.max(batch, 1)),
        sign,
      },
      workgroups: grid1d(Math.ceil(count / 64)),
    });
    return out;
  };
  return applyOp({
    name: who,
    // Tables and positions are constants: listed, so that they live until the backward has run.
    inputs: [x, cos, sin, positions],
    forward: () => ({ outputs: [run(x, 1)] }),
    backward: ({ grads }) => [run(grads[0]!, -1)],
  })[0]!;
}
