import { defineKernel, type Kernel, type ParamValue, type Tensor } from "@x/kernels";
import {
  channelDecayGradient,
  channelDecayParams,
  decayGradientBindings,
  headDecayGradient,
  headDecayParams,
  PAIRS,
  type DecayGradientVariant,
} from "./decay_gradient.wgsl.js";

const headKernel: Kernel<DecayGradientVariant> = defineKernel({
  name: "headDecayGradient",
  bindings: decayGradientBindings,
  params: headDecayParams,
  wgsl: headDecayGradient,
});
const channelKernel: Kernel<DecayGradientVariant> = defineKernel({
  name: "channelDecayGradient",
  bindings: decayGradientBindings,
  params: channelDecayParams,
  wgsl: channelDecayGradient,
});

/** The most tokens of a chunk of which the gradient of decays can be taken. */
export const LONGEST_CHUNK: number = PAIRS;

/** Features of every token in memory: steps of batch, head and token, and how many heads share one. */
export interface TokenRows {
  readonly tensor: Tensor;
  readonly stride: readonly number[];
  /** Where the first token of the first head lies; default 0. */
  readonly offset?: number;
}

/** A recurrence S_t = decay_t S_{t-1} + kScale k_t^T v_t and one reader of its states, xScale x S with the cotangent y. */
export interface DecayGradientOptions {
  readonly x: TokenRows;
  readonly y: TokenRows;
  readonly k: TokenRows;
  readonly v: TokenRows;
  readonly decay: TokenRows;
  /** What the gradient is written to, or with `add` added to. */
  readonly out: TokenRows;
  readonly add?: boolean;
  /** The state before each chunk; zeros if absent. */
  readonly states: Tensor | undefined;
  /** The gradient of the state after each chunk, which only one of several readers counts. */
  readonly dstates: Tensor | undefined;
  /** Both have a state more than chunks for each head, and a chunk's gradient lies one after its state; default false. */
  readonly ends?: boolean;
  readonly batch: number;
  readonly heads: number;
  readonly tokens: number;
  readonly chunk: number;
  readonly dim: number;
  readonly valueDim: number;
  readonly xScale: number;
  readonly kScale: number;
}

function call(options: DecayGradientOptions): {
  variant: DecayGradientVariant;
  bindings: Record<string, Tensor | undefined>;
  params: Record<string, ParamValue>;
} {
  const { x, y, k, v, decay, out, add = false, states, dstates, ends = false } = options;
  const { heads, tokens, chunk, dim, valueDim, xScale, kScale } = options;
  return {
    variant: { state: states !== undefined, border: dstates !== undefined, add },
    bindings: {
      x: x.tensor,
      y: y.tensor,
      k: k.tensor,
      v: v.tensor,
      decay: decay.tensor,
      states,
      dstates,
      out: out.tensor,
    },
    params: {
      x_stride: x.stride,
      y_stride: y.stride,
      k_stride: k.stride,
      v_stride: v.stride,
      decay_stride: decay.stride,
      out_stride: out.stride,
      heads,
      tokens,
      chunk,
      chunks: Math.ceil(tokens / chunk),
      slots: Math.ceil(tokens / chunk) + (ends ? 1 : 0),
      after_first: ends ? 1 : 0,
      x_offset: x.offset ?? 0,
      y_offset: y.offset ?? 0,
      dim,
      value_dim: valueDim,
      x_scale: xScale,
      k_scale: kScale,
    },
  };
}

/** The gradient of the log decay of each head and token; `decay` holds log decays. See `headDecayGradient`. */
export function runHeadDecayGradient(
  options: DecayGradientOptions & { /** The state is [.., valueDim, dim]. */ readonly valuesFirst?: boolean },
): void {
  const { valuesFirst = false, batch, heads, tokens, chunk, dim, valueDim } = options;
  const { params, ...rest } = call(options);
  options.x.tensor.gpu.run(headKernel, {
    ...rest,
    params: { ...params, state_row: valuesFirst ? 1 : valueDim, state_column: valuesFirst ? dim : 1 },
    workgroups: [Math.ceil(tokens / chunk), heads, batch],
  });
}

/** The gradient of the decay of each channel of the keys; `decay` holds decays. See `channelDecayGradient`. */
export function runChannelDecayGradient(
  options: DecayGradientOptions & {
    /** 1 where a token reads the state before it, 0 where it reads the state after it. */
    readonly shift: 0 | 1;
  },
): void {
  const { batch, heads, tokens, chunk, dim, valueDim, shift } = options;
  const { params, ...rest } = call(options);
  const blocks = Math.ceil(dim / PAIRS);
  options.x.tensor.gpu.run(channelKernel, {
    ...rest,
    params: { ...params, state_row: valueDim, state_column: 1, blocks, shift },
    workgroups: [Math.ceil(tokens / chunk) * blocks, heads, batch],
  });
}
