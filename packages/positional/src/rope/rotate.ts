import {
  applyOp,
  checkConfig,
  ConfigError,
  defineKernel,
  DTypeError,
  expectBoolean,
  expectDType,
  expectInteger,
  expectOneOf,
  expectShape,
  expectTensor,
  grid1d,
  ShapeError,
  showShape,
  type Tensor,
} from "@x/kernels";
import { rotateBindings, rotateParams, rotateText } from "./rotate.wgsl.js";

/** Order of the axes of queries and keys. */
export type HeadLayout = "bhsd" | "bshd";

const rotateKernel = defineKernel({
  name: "rope",
  bindings: rotateBindings,
  params: rotateParams,
  wgsl: rotateText,
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

function check(who: string, tensors: readonly Tensor[], rotation: Rotation, layout: HeadLayout): void {
  const { cos, positions } = rotation;
  const pairs = cos.shape[1]!;
  const [first] = tensors as [Tensor];
  const tokens = (t: Tensor): string =>
    `${t.shape[0]} rows of ${t.shape[layout === "bhsd" ? 2 : 1]} tokens with ${t.shape[3]} features a head`;
  for (const [i, t] of tensors.entries()) {
    const name = tensors.length === 1 ? "x" : i === 0 ? "q" : "k";
    if (t.dtype !== "f32" && t.dtype !== "f16")
      throw new DTypeError(who, `${name} is ${t.dtype}; it must be f32 or f16`);
    if (t.rank !== 4)
      throw new ShapeError(
        who,
        `${name} has shape ${showShape(t.shape)}; it must have four axes (${layout})`,
      );
    if (2 * pairs > t.shape[3]!)
      throw new ShapeError(who, `${name} has ${t.shape[3]!} features a head; ${2 * pairs} are to turn`);
    if (t.dtype !== first.dtype)
      throw new DTypeError(who, `k is ${t.dtype}, q is ${first.dtype}; they must be equal`);
    if (tokens(t) !== tokens(first))
      throw new ShapeError(who, `k has ${tokens(t)}, q has ${tokens(first)}; only the heads may differ`);
  }
  if (!positions) return;
  const [batch, seq] = [first.shape[0]!, first.shape[layout === "bhsd" ? 2 : 1]!];
  if (positions.dtype !== "i32")
    throw new DTypeError(who, `positions are ${positions.dtype}; they must be i32`);
  if (positions.rank !== 2 || positions.shape[0] !== batch || positions.shape[1] !== seq) {
    throw new ShapeError(
      who,
      `positions have shape ${showShape(positions.shape)}; it must be [${batch}, ${seq}]`,
    );
  }
}

/** Invocations that a device should have before one takes several heads. */
const ENOUGH = 16384;

/** Turn the feature pairs of one tensor, or of queries and keys in one pass; the gradient turns back. */
export function turnPairs(
  who: string,
  tensors: readonly Tensor[],
  rotation: Rotation,
  layout: HeadLayout,
): Tensor[] {
  const { cos, sin, interleaved, offset = 0, positions } = rotation;
  check(who, tensors, rotation, layout);
  const [first] = tensors as [Tensor];
  const [rows, pairs] = cos.shape as [number, number];
  const [batch, dim] = [first.shape[0]!, first.shape[3]!];
  const seq = first.shape[layout === "bhsd" ? 2 : 1]!;
  const vec = dim % 4 === 0 && pairs % (interleaved ? 2 : 4) === 0;
  const piece = vec ? 4 : 1;
  // Pieces that hold both of a pair, or one for each half.
  const turning = interleaved && vec ? pairs / 2 : pairs / piece;
  const units = turning + (dim - 2 * pairs) / piece;
  const tokens = batch * seq;
  const run = (given: readonly Tensor[], sign: number): Tensor[] => {
    const outs = given.map((t) => t.gpu.empty(t.shape, t.dtype));
    const heads = given.map((t) => t.shape[layout === "bhsd" ? 1 : 2]!);
    const most = Math.max(...heads);
    const slices = Math.max(1, Math.min(most, Math.ceil(ENOUGH / Math.max(1, units * tokens))));
    const rowStep = (h: number): number => (layout === "bhsd" ? dim : dim * h) / piece;
    const headStep = (layout === "bhsd" ? dim * seq : dim) / piece;
    const [qHeads = 0, kHeads = 0] = heads;
    const count = units * tokens * slices;
    const [q, k] = given as [Tensor, Tensor?];
    q.gpu.run(rotateKernel, {
      variant: {
        dtype: q.dtype,
        interleaved,
        vec,
        positions: positions !== undefined,
        both: k !== undefined,
      },
      bindings: {
        q,
        k,
        k_out: outs[1],
        cos_table: cos,
        sin_table: sin,
        positions,
        q_out: outs[0]!,
      },
      params: {
        count,
        turning,
        units,
        tokens,
        seq,
        rows,
        offset,
        sign,
        q_seq: rowStep(qHeads),
        q_head: headStep,
        q_batch: (dim * seq * qHeads) / piece,
        q_heads: qHeads,
        q_chunk: Math.ceil(qHeads / slices),
        k_seq: rowStep(kHeads),
        k_head: headStep,
        k_batch: (dim * seq * kHeads) / piece,
        k_heads: kHeads,
        k_chunk: Math.ceil(kHeads / slices),
      },
      workgroups: grid1d(Math.ceil(count / 64)),
    });
    return outs;
  };
  return applyOp({
    name: who,
    // Tables and positions are constants: listed, so that they live until the backward has run.
    inputs: [...tensors, cos, sin, positions],
    forward: () => ({ outputs: run(tensors, 1) }),
    backward: ({ grads }) => {
      const turned = run(
        grads.filter((g) => g !== undefined),
        -1,
      );
      return grads.map((g) => (g ? turned.shift() : undefined));
    },
  });
}

/** Which angles a token turns by, and which features are a pair. */
export interface RotateOptions {
  /** Cosines, f32: [rows, pairs], of which each token takes a row; or [batch, seq, pairs], one row for each token. */
  readonly cos: Tensor;
  /** Sines, of the cosines' shape. */
  readonly sin: Tensor;
  /** Rows of [rows, pairs] that the tokens take, i32 [batch, seq]; an id outside the tables takes their last row. */
  readonly positionIds?: Tensor | undefined;
  /** Without `positionIds`: the row of [rows, pairs] that the first token takes; default 0. */
  readonly positionOffset?: number;
  /** A pair is two neighbours (2 i, 2 i + 1), or, by default, one feature of each half (i, i + pairs). */
  readonly interleaved?: boolean;
  /** Default "bhsd": [batch, heads, seq, headDim]. */
  readonly layout?: HeadLayout;
}

/**
 * Rotation of feature pairs by given tables: x' = x cos - y sin, y' = y cos + x sin for the pair (x, y) of each token
 * and head.
 *
 * x [batch, heads, seq, headDim], or [batch, seq, heads, headDim] with the layout "bshd", f32 or f16. The tables hold
 * `pairs` angles a token; the first 2 pairs features turn, the others stay. The gradient goes to x; the tables are
 * constants. Su et al. 2021, arXiv:2104.09864, equation 34.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function rotate(x: Tensor, options: RotateOptions): Tensor {
  const who = "rotate";
  checkConfig(who, options, ["cos", "sin", "positionIds", "positionOffset", "interleaved", "layout"]);
  const { cos, sin, positionIds, positionOffset = 0, interleaved = false, layout = "bhsd" } = options;
  expectOneOf(who, "layout", layout, ["bhsd", "bshd"]);
  expectBoolean(who, "interleaved", interleaved);
  expectInteger(who, "positionOffset", positionOffset, 0);
  expectTensor(who, "x", x);
  expectDType(who, "cos", cos, "f32");
  expectDType(who, "sin", sin, "f32");
  const [batch, seq] = [x.shape[0] ?? 0, x.shape[layout === "bhsd" ? 2 : 1] ?? 0];
  const perToken = cos.rank === 3;
  const pairs = cos.shape.at(-1) ?? 0;
  expectShape(who, "cos", cos, perToken ? [batch, seq, null] : [null, null]);
  expectShape(who, "sin", sin, cos.shape);
  if (pairs === 0)
    throw new ShapeError(who, `cos has shape ${showShape(cos.shape)}; it must have an angle a token`);
  if (!perToken) {
    const rows = cos.shape[0]!;
    if (positionIds === undefined && positionOffset + seq > rows)
      throw new ShapeError(
        who,
        `the tables have ${rows} rows; the tokens take rows up to ${positionOffset + seq - 1}`,
      );
    return turnPairs(
      who,
      [x],
      { cos, sin, interleaved, positions: positionIds, offset: positionOffset },
      layout,
    )[0]!;
  }
  if (positionIds !== undefined || options.positionOffset !== undefined)
    throw new ConfigError(
      who,
      "positions are given, and tables that hold a row for each token; one of them says which",
    );
  return x.gpu.scope(() => {
    const positions = x.gpu.tensor(
      Int32Array.from({ length: batch * seq }, (_, i) => i),
      [batch, seq],
      "i32",
    );
    const tables = { cos: cos.reshape([batch * seq, pairs]), sin: sin.reshape([batch * seq, pairs]) };
    return turnPairs(who, [x], { ...tables, interleaved, positions }, layout)[0]!;
  });
}
