import { applyOp, defineKernel, grid1d, sumMiddle, type Kernel, type Tensor } from "@x/kernels";
import {
  lastState,
  lastStateBackward,
  moments,
  powerSum,
  powerSumBackward,
  SPAN,
  STRIDES,
  type SumVariant,
} from "./power_sums.wgsl.js";

/*
 * Sums over powers of poles, and their gradients, which are moments: of a^e over time, alone and weighted by e. Two
 * kernels compute both for the kernel of a convolution, for what a state adds to later outputs and for the state at the
 * end; nothing of [seq, states] is stored.
 */

const sequenceParams = {
  batch: "u32",
  seq: "u32",
  dim: "u32",
  states: "u32",
  stride_b: "u32",
  stride_t: "u32",
  stride_h: "u32",
  offset: "u32",
  /** Exponents count from the last token. */
  reverse: "u32",
} as const;

const sumKernel: Kernel<SumVariant> = defineKernel({
  name: "powerSum",
  bindings: (v: SumVariant) => ({
    pole: "read vec4u" as const,
    c: "read vec2f" as const,
    ...(v.by === "state" ? { state: "read vec2f" as const } : {}),
    out: "write f32" as const,
  }),
  params: { ...sequenceParams, tiles: "u32", scale: "f32" },
  wgsl: powerSum,
});

const momentsKernel: Kernel<undefined> = defineKernel({
  name: "powerMoments",
  bindings: { u: "read f32", pole: "read vec4u", partial: "write vec4f" },
  params: { ...sequenceParams, chunk: "u32", chunks: "u32" },
  wgsl: moments,
});

interface StateVariant {
  readonly state: boolean;
}

const sumBackwardKernel: Kernel<StateVariant> = defineKernel({
  name: "powerSumBackward",
  bindings: (v: StateVariant) => ({
    moment: "read vec4f" as const,
    pole: "read vec4u" as const,
    c: "read vec2f" as const,
    ...(v.state ? { state: "read vec2f" as const, d_state: "write vec2f" as const } : {}),
    d_c: "write vec2f" as const,
    d_pole: "write vec4f" as const,
  }),
  params: { batch: "u32", width: "u32", scale: "f32" },
  wgsl: powerSumBackward,
});

const lastStateKernel: Kernel<StateVariant> = defineKernel({
  name: "lastState",
  bindings: (v: StateVariant) => ({
    moment: "read vec4f" as const,
    pole: "read vec4u" as const,
    ...(v.state ? { state: "read vec2f" as const } : {}),
    out: "write vec2f" as const,
  }),
  params: { batch: "u32", width: "u32", seq: "u32" },
  wgsl: lastState,
});

const lastStateBackwardKernel: Kernel<StateVariant> = defineKernel({
  name: "lastStateBackward",
  bindings: (v: StateVariant) => ({
    moment: "read vec4f" as const,
    pole: "read vec4u" as const,
    grad: "read vec2f" as const,
    ...(v.state ? { state: "read vec2f" as const, d_state: "write vec2f" as const } : {}),
    weight: "write vec2f" as const,
    d_pole: "write vec4f" as const,
  }),
  params: { batch: "u32", width: "u32", seq: "u32" },
  wgsl: lastStateBackward,
});

/** Where the values of a sequence lie, and which power each token has. */
interface Sequence {
  readonly batch: number;
  readonly seq: number;
  readonly stride_b: number;
  readonly stride_t: number;
  readonly stride_h: number;
  readonly offset: number;
  readonly reverse: 0 | 1;
}

/** [dim, seq], with powers from 0. */
const asKernel = (dim: number, seq: number): Sequence => ({
  batch: 1,
  seq,
  stride_b: dim * seq,
  stride_t: 1,
  stride_h: seq,
  offset: 0,
  reverse: 0,
});

/** [batch, seq, dim]. */
const asTokens = (
  batch: number,
  seq: number,
  dim: number,
  powers: Pick<Sequence, "offset" | "reverse">,
): Sequence => ({ batch, seq, stride_b: seq * dim, stride_t: dim, stride_h: 1, ...powers });

function runSum(
  by: SumVariant["by"],
  sequence: Sequence,
  scale: number,
  bindings: { pole: Tensor; c: Tensor; state?: Tensor | undefined; out: Tensor },
): void {
  const [dim, states] = bindings.pole.shape as [number, number];
  const short = sequence.seq <= 64;
  const tiles = Math.ceil(sequence.seq / (short ? 64 : 64 * STRIDES));
  bindings.pole.gpu.run(sumKernel, {
    variant: { by, short },
    bindings,
    params: { ...sequence, dim, states, tiles, scale },
    workgroups: grid1d(sequence.batch * dim * tiles),
  });
}

/** [batch, dim, states, 4]: the sums of u_t a^e and of e u_t a^e. */
function runMoments(u: Tensor, pole: Tensor, sequence: Sequence): Tensor {
  const { gpu } = u;
  const [dim, states] = pole.shape as [number, number];
  const { batch, seq } = sequence;
  const width = dim * states;
  const wanted = Math.ceil((gpu.info.software ? 64 : 16384) / (batch * width));
  const chunk = Math.ceil(seq / Math.min(wanted, Math.ceil(seq / SPAN)) / SPAN) * SPAN;
  const chunks = Math.ceil(seq / chunk);
  const partial = gpu.empty([batch, chunks, dim, states, 4]);
  gpu.run(momentsKernel, {
    bindings: { u, pole, partial },
    params: { ...sequence, dim, states, chunk, chunks },
    workgroups: grid1d(Math.ceil((batch * chunks * width) / 64)),
  });
  return chunks === 1 ? partial : sumMiddle(partial, batch, chunks, width * 4);
}

/**
 * Without a state the kernel of the convolution, [dim, seq]: 2 Re sum_n c_n f_n a_n^l. With one, [batch, dim, states, 2],
 * what it adds to the outputs after it, [batch, seq, dim]: 2 Re sum_n c_n a_n^(t + 1) state_n.
 */
export function powerSums(c: Tensor, pole: Tensor, seq: number, state?: Tensor): Tensor {
  const { gpu } = c;
  const [dim, states] = pole.shape as [number, number];
  const batch = state?.shape[0] ?? 1;
  const sequence = state ? asTokens(batch, seq, dim, { offset: 1, reverse: 0 }) : asKernel(dim, seq);
  const scale = 2;
  return applyOp({
    name: "powerSums",
    inputs: [c, pole, state],
    forward: () => {
      const out = gpu.empty(state ? [batch, seq, dim] : [dim, seq]);
      runSum(state ? "state" : "factor", sequence, scale, { pole, c, state, out });
      return { outputs: [out] };
    },
    backward: ({ grads }) => {
      const moment = runMoments(grads[0]!, pole, sequence);
      const [d_c, d_pole] = [gpu.empty(c.shape), gpu.empty(pole.shape)];
      const d_state = state && gpu.empty(state.shape);
      const width = dim * states;
      gpu.run(sumBackwardKernel, {
        variant: { state: state !== undefined },
        bindings: { moment, pole, c, state, d_state, d_c, d_pole },
        params: { batch, width, scale },
        workgroups: grid1d(Math.ceil(width / 64)),
      });
      return [d_c, d_pole, d_state];
    },
  })[0]!;
}

/** The state after the last token, [batch, dim, states, 2]: a^seq state + f sum_t a^(seq - 1 - t) u_t. */
export function finalState(u: Tensor, pole: Tensor, state?: Tensor): Tensor {
  const { gpu } = u;
  const [batch, seq, dim] = u.shape as [number, number, number];
  const states = pole.shape[1]!;
  const width = dim * states;
  const sequence = asTokens(batch, seq, dim, { offset: 0, reverse: 1 });
  const variant = { state: state !== undefined };
  const params = { batch, width, seq };
  return applyOp({
    name: "finalState",
    inputs: [u, pole, state],
    forward: () => {
      const moment = runMoments(u, pole, sequence);
      const out = gpu.empty([batch, dim, states, 2]);
      gpu.run(lastStateKernel, {
        variant,
        bindings: { moment, pole, state, out },
        params,
        workgroups: grid1d(Math.ceil((batch * width) / 64)),
      });
      return { outputs: [out], saved: [moment] };
    },
    backward: ({ grads, saved }) => {
      const weight = gpu.empty([batch, dim, states, 2]);
      const d_pole = gpu.empty(pole.shape);
      const d_state = state && gpu.empty(state.shape);
      gpu.run(lastStateBackwardKernel, {
        variant,
        bindings: { moment: saved[0]!, pole, grad: grads[0]!, state, d_state, weight, d_pole },
        params,
        workgroups: grid1d(Math.ceil(width / 64)),
      });
      const du = gpu.empty(u.shape);
      runSum("alone", sequence, 1, { pole, c: weight, out: du });
      return [du, d_pole, d_state];
    },
  })[0]!;
}
