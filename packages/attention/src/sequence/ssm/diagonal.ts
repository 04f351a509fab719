import {
  applyOp,
  concat,
  defineKernel,
  e,
  elementwise,
  expectDType,
  expectShape,
  grid1d,
  linear,
  sumMiddle,
  type Gpu,
  type Kernel,
  type Tensor,
} from "@x/kernels";
import { expectTokens } from "../../block/block.js";
import {
  inputBackward,
  inputForward,
  scanBackward,
  scanCarry,
  scanEnds,
  scanForward,
  scanParams,
  type ScanVariant,
} from "./diagonal.wgsl.js";

/** Tokens of a chunk that a thread walks at least. */
const SHORTEST = 16;

/**
 * Chunks that fill the device, since cutting reads the input twice; and no more than twice the root of the length, since
 * one thread carries a state over all borders.
 */
function cut(gpu: Gpu, seq: number, threads: number): { chunk: number; chunks: number } {
  const wanted = gpu.info.software ? 64 : 16384;
  const chunks = Math.min(
    Math.ceil(seq / SHORTEST),
    Math.ceil(wanted / threads),
    Math.ceil(2 * Math.sqrt(seq)),
  );
  const chunk = Math.ceil(seq / chunks);
  return { chunk, chunks: Math.ceil(seq / chunk) };
}

const endsKernel: Kernel<ScanVariant> = defineKernel({
  name: "diagonalScanEnds",
  bindings: { v: "read vec2f", pole: "read vec4u", borders: "write vec2f" },
  params: scanParams,
  wgsl: scanEnds,
});

const carryKernel: Kernel<ScanVariant> = defineKernel({
  name: "diagonalScanCarry",
  bindings: (v: ScanVariant) => ({
    pole: "read vec4u" as const,
    ...(v.start ? { start: "read vec2f" as const } : {}),
    borders: "read_write vec2f" as const,
  }),
  params: scanParams,
  wgsl: scanCarry,
});

const forwardKernel: Kernel<ScanVariant> = defineKernel({
  name: "diagonalScan",
  bindings: (v: ScanVariant) => ({
    v: "read vec2f" as const,
    pole: "read vec4u" as const,
    ...(v.start ? { start: "read vec2f" as const } : {}),
    x: "write vec2f" as const,
    state_out: "write vec2f" as const,
  }),
  params: scanParams,
  wgsl: scanForward,
});

interface BackwardVariant extends ScanVariant {
  readonly state: boolean;
}

const backwardKernel: Kernel<BackwardVariant> = defineKernel({
  name: "diagonalScanBackward",
  bindings: (v: BackwardVariant) => ({
    v: "read vec2f" as const,
    x: "read vec2f" as const,
    pole: "read vec4u" as const,
    ...(v.start ? { start: "read vec2f" as const } : {}),
    dv: "write vec2f" as const,
    partial: "write vec4f" as const,
    ...(v.state ? { state: "read vec2f" as const, d_state: "write vec2f" as const } : {}),
  }),
  params: scanParams,
  wgsl: scanBackward,
});

/**
 * The recurrence of a diagonal state over conjugates, x_t = conj(a) x_{t-1} + v_t, so that Re(c x) is a plain product
 * of real numbers. v [batch, seq, states, 2], pole [states, 4]; state [batch, states, 2] is not conjugate. One
 * dispatch, or three where one state of one sequence per thread would leave the device idle.
 */
function diagonalScan(
  v: Tensor,
  pole: Tensor,
  state: Tensor | undefined,
  reverse: boolean,
): { x: Tensor; state: Tensor } {
  const { gpu } = v;
  const [batch, seq, states] = v.shape as [number, number, number];
  const { chunk, chunks } = cut(gpu, seq, batch * states);
  const params = { batch, seq, states, chunk, chunks, reverse: reverse ? 1 : 0, borders: chunks > 1 ? 1 : 0 };
  const call = { params, workgroups: grid1d(Math.ceil((batch * chunks * states) / 64)) };
  /** The state, or what comes into every chunk. */
  const startOf = (adjoint: boolean, from: Tensor, given: Tensor | undefined): Tensor | undefined => {
    if (chunks === 1) return given;
    const borders = gpu.empty([batch, chunks, states, 2]);
    const variant = { adjoint, start: given !== undefined };
    gpu.run(endsKernel, {
      ...call,
      variant: { adjoint, start: false },
      bindings: { v: from, pole, borders },
    });
    gpu.run(carryKernel, {
      params,
      variant,
      bindings: { pole, start: given, borders },
      workgroups: grid1d(Math.ceil((batch * states) / 64)),
    });
    return borders;
  };
  const [x, last] = applyOp({
    name: "diagonalScan",
    inputs: [v, pole, state],
    forward: () => {
      const [out, state_out] = [gpu.empty(v.shape), gpu.empty([batch, states, 2])];
      const start = startOf(false, v, state);
      gpu.run(forwardKernel, {
        ...call,
        variant: { adjoint: false, start: start !== undefined },
        bindings: { v, pole, start, x: out, state_out },
      });
      return { outputs: [out, state_out] };
    },
    backward: ({ grads, outputs }) => {
      const g = grads[0] ?? gpu.zeros(v.shape);
      const start = startOf(true, g, grads[1]);
      const dv = gpu.empty(v.shape);
      const partial = gpu.empty([batch * chunks, states, 4]);
      const d_state = state && gpu.empty(state.shape);
      gpu.run(backwardKernel, {
        ...call,
        variant: { adjoint: true, start: start !== undefined, state: state !== undefined },
        bindings: { v: g, x: outputs[0]!, pole, start, dv, partial, state, d_state },
      });
      return [dv, sumMiddle(partial, 1, batch * chunks, states * 4).alias(pole.shape), d_state];
    },
  });
  return { x: x!, state: last! };
}

const inputKernel: Kernel<undefined> = defineKernel({
  name: "stateInput",
  bindings: { b: "read vec2f", pole: "read vec4u", weight: "write f32" },
  params: { states: "u32", dim: "u32" },
  wgsl: inputForward,
});

const inputBackwardKernel: Kernel<undefined> = defineKernel({
  name: "stateInputBackward",
  bindings: {
    b: "read vec2f",
    pole: "read vec4u",
    grad: "read f32",
    db: "write vec2f",
    d_pole: "write vec4f",
  },
  params: { states: "u32", dim: "u32" },
  wgsl: inputBackward,
});

/** The real matrix [2 states, dim] that gives conj(f (b u)), from b [states, dim, 2]. */
function inputMatrix(b: Tensor, pole: Tensor): Tensor {
  const { gpu } = b;
  const [states, dim] = b.shape as [number, number];
  const params = { states, dim };
  return applyOp({
    name: "stateInput",
    inputs: [b, pole],
    forward: () => {
      const weight = gpu.empty([2 * states, dim]);
      gpu.run(inputKernel, {
        params,
        bindings: { b, pole, weight },
        workgroups: grid1d(Math.ceil((states * dim) / 64)),
      });
      return { outputs: [weight] };
    },
    backward: ({ grads }) => {
      const [db, d_pole] = [gpu.empty(b.shape), gpu.empty(pole.shape)];
      gpu.run(inputBackwardKernel, {
        params,
        bindings: { b, pole, grad: grads[0]!, db, d_pole },
        workgroups: grid1d(states),
      });
      return [db, d_pole];
    },
  })[0]!;
}

const skip = elementwise("stateSkip", ["u", "d"], (u, d) => e.mul(u, d));
const skipInto = elementwise("stateSkip", ["u", "d", "into"], (u, d, into) => e.add(into, e.mul(u, d)));

export interface DiagonalOptions {
  /** [batch, states, 2] */
  readonly state?: Tensor | undefined;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
  /** Factor of Re(c x). */
  readonly factor: 1 | 2;
  readonly bidirectional?: boolean;
}

/** What enters a diagonal model and leaves it, with the names under which errors speak of it. */
export interface DiagonalParameters {
  /** [states, dim, 2] */
  readonly b: Tensor;
  /** [dim, states, 2]; [dim, 2 states, 2] if bidirectional. */
  readonly c: Tensor;
  /** [dim] */
  readonly dSkip: Tensor;
}

/**
 * Check u, the state and the parameters of a diagonal model: `poles` are its tensors of shape [states].
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function checkDiagonal(
  who: string,
  u: Tensor,
  poles: Readonly<Record<string, Tensor>>,
  { b, c, dSkip }: DiagonalParameters,
  { state, residual, bidirectional = false }: Omit<DiagonalOptions, "factor">,
): void {
  for (const [name, t] of Object.entries({ u, ...poles, b, c, dSkip, state, residual }))
    if (t !== undefined) expectDType(who, name, t, "f32");
  const sizes = expectShape(who, "u", u, ["batch", "seq", "dim"]) as {
    batch: number;
    seq: number;
    dim: number;
  };
  expectTokens(who, sizes.seq, "u");
  const names: Record<string, number> = { dim: sizes.dim };
  for (const [name, t] of Object.entries(poles)) expectShape(who, name, t, ["states"], names);
  const { states = 0 } = names;
  expectShape(who, "b", b, ["states", "dim", 2], names);
  expectShape(who, "c", c, ["dim", bidirectional ? 2 * states : "states", 2], names);
  expectShape(who, "dSkip", dSkip, ["dim"], names);
  if (state) expectShape(who, "state", state, [sizes.batch, states, 2]);
  if (residual) expectShape(who, "residual", residual, u.shape);
}

/**
 * x_t = a x_{t-1} + f (b u_t), y_t = factor Re(c x_t) + dSkip u_t: the projections are products of matrices, the
 * recurrence between them is one scan over [batch, seq, states, 2]. In the whole sequence's memory are the scan's input
 * and output, twice the states of a token.
 */
export function diagonalModel(
  u: Tensor,
  pole: Tensor,
  { b, c, dSkip }: DiagonalParameters,
  { state, residual, factor, bidirectional = false }: DiagonalOptions,
): { out: Tensor; state: Tensor } {
  const [batch, seq] = u.shape as [number, number];
  const states = b.shape[0]!;
  const v = linear(u, inputMatrix(b, pole)).reshape([batch, seq, states, 2]);
  const forward = diagonalScan(v, pole, state, false);
  const flat = (x: Tensor): Tensor => x.reshape([batch, seq, 2 * states]);
  const x = bidirectional
    ? concat([flat(forward.x), flat(diagonalScan(v, pole, undefined, true).x)], 2)
    : flat(forward.x);
  const out = linear(x, c.reshape([c.shape[0]!, 2 * c.shape[1]!]), undefined, {
    alpha: factor,
    residual: residual ? skipInto(u, dSkip, residual) : skip(u, dSkip),
  });
  return { out, state: forward.state };
}
