import {
  applyOp,
  defineKernel,
  e,
  elementwise,
  flatGrid,
  isTracked,
  mul,
  stridedCopy,
  stridesOf,
  sum,
  sumMiddle,
  type Gpu,
  type Kernel,
  type Tensor,
} from "@x/kernels";
import type { AttentionLayout } from "../../engine/options.js";
import {
  LONGEST_CHUNK,
  runChannelDecayGradient,
  runHeadDecayGradient,
  type TokenRows,
} from "../decay/decay_gradient.js";
import {
  columnsBackBindings,
  forwardBindings,
  recurrenceColumnsBack,
  recurrenceForward,
  recurrenceParams,
  recurrenceRows,
  recurrenceRowsBack,
  rowsBackBindings,
  rowsBindings,
  type RecurrenceVariant,
} from "./recurrence.wgsl.js";

const params = recurrenceParams;
const forwardKernel: Kernel<RecurrenceVariant> = defineKernel({
  name: "deltaRecurrence",
  bindings: forwardBindings,
  params,
  wgsl: recurrenceForward,
});
const columnsBackKernel: Kernel<RecurrenceVariant> = defineKernel({
  name: "deltaRecurrenceColumnsBackward",
  bindings: columnsBackBindings,
  params,
  wgsl: recurrenceColumnsBack,
});
const rowsBackKernel: Kernel<RecurrenceVariant> = defineKernel({
  name: "deltaRecurrenceRowsBackward",
  bindings: rowsBackBindings,
  params,
  wgsl: recurrenceRowsBack,
});
const rowsKernel: Kernel<RecurrenceVariant> = defineKernel({
  name: "deltaRecurrenceRows",
  bindings: rowsBindings,
  params,
  wgsl: recurrenceRows,
});

const gainOf = elementwise("decay", ["g"], (g) => e.exp(g));

export interface RecurrenceInputs {
  /** Heads of q divide those of v, or are a multiple of them; heads of k divide those of v. */
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  /** Log decays of heads or of channels. */
  readonly g: Tensor | undefined;
  readonly beta: Tensor | undefined;
  /** [batch, heads of v, dim, valueDim] */
  readonly state: Tensor | undefined;
}

/** Where tokens lie: strides of batch, head and token for `width` elements, of `own` heads that serve `heads`. */
function strideOf(
  layout: AttentionLayout,
  tokens: number,
  heads: number,
  own: number,
  width: number,
): { stride: number[]; read: number } {
  const [head, token] = layout === "bhsd" ? [tokens * width, width] : [width, own * width];
  const reads = Math.max(1, own / heads);
  return { stride: [own * tokens * width, reads * head, token, Math.max(1, heads / own)], read: head };
}

/** Sizes and strides of a call, and what its kernels have in common. */
class DeltaRecurrence {
  readonly inputs: RecurrenceInputs;
  readonly scale: number;
  readonly layout: AttentionLayout;
  readonly gpu: Gpu;
  readonly batch: number;
  readonly heads: number;
  readonly tokens: number;
  readonly dim: number;
  readonly valueDim: number;
  /** Heads of the output, and how many of them read one state. */
  readonly outHeads: number;
  readonly reads: number;
  readonly chunk: number;
  readonly chunks: number;
  readonly decay: RecurrenceVariant["decay"];

  constructor(inputs: RecurrenceInputs, scale: number, layout: AttentionLayout) {
    const { q, v, g } = inputs;
    [this.inputs, this.scale, this.layout] = [inputs, scale, layout];
    const [head, token] = layout === "bhsd" ? [1, 2] : [2, 1];
    this.gpu = v.gpu;
    [this.batch, this.heads, this.tokens] = [v.shape[0]!, v.shape[head]!, v.shape[token]!];
    [this.dim, this.valueDim] = [q.shape[3]!, v.shape[3]!];
    this.outHeads = Math.max(this.heads, q.shape[head]!);
    this.reads = this.outHeads / this.heads;
    this.chunk = Math.min(LONGEST_CHUNK, this.tokens);
    this.chunks = Math.ceil(this.tokens / this.chunk);
    this.decay = !g ? "none" : g.rank === 3 ? "head" : "channel";
  }

  shape(heads: number, width: number): number[] {
    const { batch, tokens } = this;
    return this.layout === "bhsd" ? [batch, heads, tokens, width] : [batch, tokens, heads, width];
  }

  /** Strides for `width` elements of `own` heads, by default those of the state. */
  stride(width: number, own = this.heads): { stride: number[]; read: number } {
    return strideOf(this.layout, this.tokens, this.heads, own, width);
  }

  headsOf(t: Tensor): number {
    return t.shape[this.layout === "bhsd" ? 1 : 2]!;
  }

  params(count: number, slots: number): Record<string, number | readonly number[]> {
    const { q, k } = this.inputs;
    const { heads, tokens, chunk, chunks, dim, valueDim, scale, reads } = this;
    const [queries, outs, dqs] = [
      this.stride(dim, this.headsOf(q)),
      this.stride(valueDim, this.outHeads),
      this.stride(dim, this.outHeads),
    ];
    return {
      q_stride: queries.stride,
      k_stride: this.stride(dim, this.headsOf(k)).stride,
      v_stride: this.stride(valueDim).stride,
      out_stride: outs.stride,
      dq_stride: dqs.stride,
      dk_stride: this.stride(dim).stride,
      gain_stride: this.stride(this.decay === "channel" ? dim : 1).stride,
      beta_stride: this.stride(1).stride,
      reads,
      q_read: queries.read,
      out_read: outs.read,
      dq_read: dqs.read,
      ...{ heads, tokens, chunk, chunks, slots, dim, value_dim: valueDim, count, scale },
    };
  }

  variant(held: number, keep: boolean): RecurrenceVariant {
    const { gpu, decay } = this;
    return { held, unroll: !gpu.info.software, erases: this.inputs.beta !== undefined, decay, keep };
  }

  /** States of every slot, of which one is `given`, or zeros. */
  slots(slots: number, slot: number, given: Tensor | undefined): Tensor {
    const { gpu, batch, heads, dim, valueDim } = this;
    const states = gpu.empty([batch, heads, slots, dim, valueDim]);
    this.#copy(given ?? gpu.zeros([batch, heads, dim, valueDim]), states, slot, true);
    return states;
  }

  /** The state in a slot, by itself. */
  slot(states: Tensor, slot: number): Tensor {
    const state = this.gpu.empty([this.batch, this.heads, this.dim, this.valueDim]);
    this.#copy(state, states, slot, false);
    return state;
  }

  #copy(state: Tensor, states: Tensor, slot: number, into: boolean): void {
    const size = this.dim * this.valueDim;
    const shape = [this.batch * this.heads, size];
    const outer = { tensor: state, strides: stridesOf(shape) };
    const inner = { tensor: states, offset: slot * size, strides: [states.shape[2]! * size, 1] };
    stridedCopy("deltaRecurrence", shape, into ? outer : inner, into ? inner : outer);
  }

  forward(keep: boolean): { out: Tensor; last: Tensor; saved: Tensor[] } {
    const { gpu, batch, heads, dim, valueDim } = this;
    const { q, k, v, g, beta, state } = this.inputs;
    const slots = (keep ? this.chunks : 1) + 1;
    const gain = g && gainOf(g);
    const states = this.slots(slots, 0, state);
    const out = gpu.empty(this.shape(this.outHeads, valueDim));
    const missing = beta && keep ? gpu.empty(v.shape) : undefined;
    const count = batch * heads * valueDim;
    gpu.run(forwardKernel, {
      variant: this.variant(dim, keep),
      bindings: { q, k, v, beta, gain, out, missing, states },
      params: this.params(count, slots),
      workgroups: flatGrid(count),
    });
    const saved = [states, gain, missing].filter((t) => t !== undefined);
    return { out, last: this.slot(states, slots - 1), saved: keep ? saved : [] };
  }

  backward(
    dout: Tensor,
    dlast: Tensor | undefined,
    saved: readonly Tensor[],
    needs: readonly boolean[],
  ): (Tensor | undefined)[] {
    const { gpu, batch, heads, chunks, dim, valueDim } = this;
    const { q, k, v, g, beta } = this.inputs;
    const states = saved[0]!;
    const gain = g && saved[1]!;
    const missing = beta && saved[saved.length - 1]!;
    const slots = chunks + 1;
    const dstates = this.slots(slots, chunks, dlast);
    const denters = gpu.empty(v.shape);
    const columns = batch * heads * valueDim;
    gpu.run(columnsBackKernel, {
      variant: this.variant(dim, true),
      bindings: { q, k, dout, beta, gain, denters, dstates },
      params: this.params(columns, slots),
      workgroups: flatGrid(columns),
    });
    const rates = beta?.reshape([...beta.shape, 1]);
    const dv = rates ? mul(rates, denters) : denters;
    const enters = rates ? mul(rates, missing!) : v;
    const count = batch * heads * chunks * dim;
    const call = {
      variant: this.variant(valueDim, true),
      params: this.params(count, slots),
      workgroups: flatGrid(count),
    };
    const erasing = beta && dv;
    const dk = gpu.empty(this.shape(heads, dim));
    const dq = gpu.empty(this.shape(this.outHeads, dim));
    gpu.run(rowsBackKernel, {
      ...call,
      bindings: { q, dout, enters, k: beta && k, dv: erasing, gain, dstates, dk },
    });
    gpu.run(rowsKernel, {
      ...call,
      bindings: { k, enters, dout, dv: erasing, dk: beta && dk, gain, states, dq },
    });
    return [
      this.#shared(dq, q),
      this.#shared(dk, k),
      dv,
      g && needs[3] ? this.#decayGradient(g, gain!, dout, enters, erasing, states, dstates) : undefined,
      beta && needs[4] ? sum(mul(denters, missing!), { axes: -1 }) : undefined,
      needs[5] ? this.slot(dstates, 0) : undefined,
    ];
  }

  /** Heads that share a head add up. */
  #shared(gradient: Tensor, like: Tensor): Tensor {
    const [heads, groups] = [this.headsOf(gradient), this.headsOf(like)];
    if (heads === groups) return gradient;
    const [outer, inner] = this.layout === "bhsd" ? [1, this.tokens] : [this.tokens, 1];
    const width = like.shape[3]!;
    return sumMiddle(gradient, this.batch * outer * groups, heads / groups, inner * width).alias(like.shape);
  }

  /** Every reader of the states: the queries, and the keys where something is erased. */
  #decayGradient(
    g: Tensor,
    gain: Tensor,
    dout: Tensor,
    enters: Tensor,
    erasing: Tensor | undefined,
    states: Tensor,
    dstates: Tensor,
  ): Tensor {
    const { batch, heads, tokens, chunk, dim, valueDim, scale, outHeads, decay } = this;
    const { q, k } = this.inputs;
    const out = this.gpu.empty(g.shape);
    const rows = (tensor: Tensor, width: number, own = heads, read = 0): TokenRows => {
      const { stride, read: step } = this.stride(width, own);
      return { tensor, stride, offset: read * step };
    };
    const width = decay === "channel" ? dim : 1;
    const reader = (x: TokenRows, y: TokenRows, xScale: number, add: boolean): void => {
      const options = {
        ...{ x, y, xScale, add, states, dstates: add ? undefined : dstates, ends: true, kScale: 1 },
        k: rows(k, dim, this.headsOf(k)),
        v: rows(enters, valueDim),
        decay: rows(decay === "channel" ? gain : g, width),
        out: rows(out, width),
        ...{ batch, heads, tokens, chunk, dim, valueDim },
      };
      if (decay === "channel") runChannelDecayGradient({ ...options, shift: 0 });
      else runHeadDecayGradient(options);
    };
    for (let r = 0; r < this.reads; r++)
      reader(rows(q, dim, this.headsOf(q), r), rows(dout, valueDim, outHeads, r), scale, r > 0);
    if (erasing) reader(rows(k, dim, this.headsOf(k)), rows(erasing, valueDim), -1, true);
    return decay === "channel" ? mul(out, gain) : out;
  }
}

/**
 * A memory of keys and values that fades, and from which, where `beta` is given, what stands at a key is erased before
 * something is written there:
 *
 *   S' = e^g S_{t-1}, enters_t = beta_t (v_t - k_t S') (v_t without beta), S_t = S' + k_t^T enters_t, out_t = scale q_t S_t.
 *
 * Forward one kernel walks the tokens with a column of the state in each invocation. The backward walks them back with the
 * columns of its gradient, and then all chunks of 64 tokens at once by rows, from states that were kept. Shapes are the
 * caller's to check.
 */
export function deltaRecurrence(
  who: string,
  inputs: RecurrenceInputs,
  { scale, layout }: { readonly scale: number; readonly layout: AttentionLayout },
): { out: Tensor; state: Tensor } {
  const { q, k, v, g, beta, state } = inputs;
  const all = [q, k, v, g, beta, state];
  const keep = isTracked(all);
  const run = new DeltaRecurrence(inputs, scale, layout);
  const [out, last] = applyOp({
    name: who,
    inputs: all,
    forward: () => {
      const { out, last, saved } = run.forward(keep);
      return { outputs: [out, last], saved };
    },
    backward: ({ grads, saved, needs }) =>
      run.backward(grads[0] ?? v.gpu.zeros(run.shape(run.outHeads, run.valueDim)), grads[1], saved, needs),
  }) as [Tensor, Tensor];
  return { out, state: last };
}
