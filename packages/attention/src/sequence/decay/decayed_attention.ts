import {
  applyOp,
  ConfigError,
  expectDType,
  expectInteger,
  expectOneOf,
  expectShape,
  integer,
  oneOf,
  ShapeError,
  showShape,
  sumMiddle,
  type Tensor,
} from "@x/kernels";
import type { AttentionLayout } from "../../engine/options.js";
import { LONGEST_CHUNK } from "./decay_gradient.js";
import { DecayedKernels } from "./kernels.js";

/** Tokens of a chunk where the form does not say, and at most in the backward. */
const CHUNK = LONGEST_CHUNK;

/** How a sequence is gone through; the forms are equal up to rounding, and so are their gradients. */
export interface SequenceForm {
  /**
   * `parallel`: all pairs of tokens; `recurrent`: token after token; `chunkwise`: pairs inside chunks, a state between
   * them. Default `parallel`. Gradients go chunkwise in every form.
   */
  readonly form?: "parallel" | "recurrent" | "chunkwise" | undefined;
  /** Tokens of a chunk, for `chunkwise`; the last may be shorter. */
  readonly chunkSize?: number | undefined;
}

/** The names of the forms. */
export const FORMS = ["parallel", "recurrent", "chunkwise"] as const;

/** The keys of `SequenceForm` in a schema. */
export const FORM_FIELDS = {
  form: oneOf("How a sequence is gone through; the forms are equal up to rounding.", FORMS, {
    defaultDoc: "parallel",
  }),
  chunkSize: integer('Tokens of a chunk, for the form "chunkwise" alone; the last may be shorter.', {
    min: 1,
    optional: true,
  }),
};

/** Tokens of a chunk: all, some, or undefined for token after token. @throws ConfigError */
export function chunkOf(
  who: string,
  { form = "parallel", chunkSize }: SequenceForm,
  tokens: number,
): number | undefined {
  expectOneOf(who, "form", form, FORMS);
  if (form === "chunkwise") {
    expectInteger(who, "chunkSize", chunkSize, 1);
    return Math.min(chunkSize, tokens);
  }
  if (chunkSize !== undefined)
    throw new ConfigError(
      who,
      `chunkSize is ${chunkSize}, form "${form}"; only form "chunkwise" has a chunkSize`,
    );
  return form === "parallel" ? tokens : undefined;
}

/** @throws DTypeError */
export function expectFloat32(who: string, tensors: Readonly<Record<string, Tensor | undefined>>): void {
  for (const [name, t] of Object.entries(tensors)) if (t !== undefined) expectDType(who, name, t, "f32");
}

/** Sizes of q, k [batch, heads, tokens, dim], v [.., valueDim] and state; all f32. @throws ShapeError, DTypeError */
export function expectHeads(
  who: string,
  tensors: { readonly q: Tensor; readonly k: Tensor; readonly v: Tensor; readonly state: Tensor | undefined },
): { batch: number; heads: number; tokens: number; dim: number; valueDim: number } {
  const { q, k, v, state } = tensors;
  const names = expectShape(who, "q", q, ["batch", "heads", "tokens", "dim"]);
  expectShape(who, "k", k, ["batch", "heads", "tokens", "dim"], names);
  expectShape(who, "v", v, ["batch", "heads", "tokens", "valueDim"], names);
  if (state) expectShape(who, "state", state, ["batch", "heads", "dim", "valueDim"], names);
  expectFloat32(who, { q, k, v, state });
  expectSome(who, { q, v });
  return names as ReturnType<typeof expectHeads>;
}

/** @throws ShapeError naming the tensor that has no elements */
export function expectSome(who: string, tensors: Readonly<Record<string, Tensor>>): void {
  for (const [name, { size, shape }] of Object.entries(tensors))
    if (size === 0)
      throw new ShapeError(who, `${name} has shape ${showShape(shape)}; every extent must be at least 1`);
}

export interface DecayedInputs {
  /** [batch, groups, tokens, dim], or by layout; groups divide the heads. */
  readonly q: Tensor;
  readonly k: Tensor;
  /** [batch, heads, tokens, valueDim], or by layout. */
  readonly v: Tensor;
  /** [batch, heads, tokens] (by layout [batch, tokens, heads]), or [heads] for all tokens. */
  readonly logDecay: Tensor;
  readonly state: Tensor | undefined;
}

export interface DecayedOptions {
  /** Tokens of a chunk, or undefined for token after token. */
  readonly chunk: number | undefined;
  /** Factor of k. */
  readonly scale: number;
  /** Default "bhsd". */
  readonly layout?: AttentionLayout;
  /** The state is [batch, heads, valueDim, dim]; default [batch, heads, dim, valueDim]. */
  readonly valuesFirst?: boolean;
}

function kernelsFor(
  { q, v, logDecay }: Pick<DecayedInputs, "q" | "v" | "logDecay">,
  layout: AttentionLayout,
  valuesFirst: boolean,
): DecayedKernels {
  const [batch, one, two, valueDim] = v.shape as [number, number, number, number];
  const [heads, tokens] = layout === "bhsd" ? [one, two] : [two, one];
  const { gpu } = v;
  return new DecayedKernels({
    gpu,
    batch,
    heads,
    tokens,
    dim: q.shape[3]!,
    valueDim,
    layout,
    logDecay,
    valuesFirst,
  });
}

/**
 * Linear attention whose state decays by one number for a head and token: S_t = exp(logDecay_t) S_{t-1} + scale k_t^T v_t,
 * out_t = q_t S_t. Work grows with tokens (chunk (dim + valueDim) / 2 + 2 dim valueDim), memory with
 * tokens / chunk states.
 *
 * A sequence takes three kernels: what each chunk adds to the state, a scan over chunks, and tiles of pairs inside a
 * chunk with the state before it. The backward takes the same with roles exchanged: dS from the last chunk to the first,
 * dq_t = sum_{u <= t} scale (dout_t . v_u) w_tu k_u + w_t S dout_t, and dk, dv from the last token to the first. The
 * gradient of a decay sums the terms that pass through it: see `headDecayGradient`.
 * Shapes are the caller's to check.
 */
export function decayedAttention(
  who: string,
  { q, k, v, logDecay, state }: DecayedInputs,
  { chunk, scale, layout = "bhsd", valuesFirst = false }: DecayedOptions,
): { out: Tensor; state: Tensor } {
  const kernels = kernelsFor({ q, v, logDecay }, layout, valuesFirst);
  const [batch, tokens, heads] = [
    v.shape[0]!,
    v.shape[layout === "bhsd" ? 2 : 1]!,
    v.shape[layout === "bhsd" ? 1 : 2]!,
  ];
  const [Q, K, V] = [kernels.rows(q, false), kernels.rows(k, false), kernels.rows(v, true)];
  const short = Math.min(CHUNK, tokens);
  const forwardStates = (size: number): { each: Tensor; last: Tensor } =>
    kernels.states(K, V, size, { scale, initial: state });

  const [out, next] = applyOp({
    name: who,
    inputs: [q, k, v, logDecay, state],
    forward: () => {
      if (chunk === undefined) {
        const { out, last } = kernels.steps(Q, K, V, state, scale);
        return { outputs: [out, last] };
      }
      // One chunk needs no states in between: its sum goes over chunks of its own.
      const single = chunk >= tokens;
      const { each, last } = forwardStates(single ? short : chunk);
      const out = kernels.tiles(Q, K, V, chunk, { scale, states: single ? state : each });
      return { outputs: [out, last], saved: single || chunk > short ? [] : [each] };
    },
    backward: ({ grads, saved, needs }) => {
      const { gpu } = v;
      const [forQ, forK, forV, forDecay, forState] = needs;
      const [dout = gpu.zeros(v.shape), dlast] = grads;
      const size = Math.min(chunk ?? short, short);
      const single = size >= tokens;
      const G = kernels.rows(dout, true);
      const before = single ? state : size === chunk ? saved[0]! : forwardStates(size).each;
      const back =
        !single || forState
          ? kernels.states(Q, G, size, { scale: 1, initial: dlast, reverse: true })
          : undefined;
      const after = single ? dlast : back!.each;
      const reverse = { scale, states: after, stateScale: scale, reverse: true };
      const dq = forQ ? kernels.tiles(G, V, K, size, { scale, states: before }) : undefined;
      const dk = forK ? kernels.tiles(V, G, Q, size, reverse) : undefined;
      const dv = forV ? kernels.tiles(K, Q, G, size, reverse) : undefined;
      const ddecay = forDecay
        ? kernels.decayGradient({ q: Q, k: K, v: V, g: G }, size, scale, before, after)
        : undefined;
      // Heads that share q and k add up.
      const shared = (gradient: Tensor | undefined, like: Tensor): Tensor | undefined => {
        const groups = like.shape[layout === "bhsd" ? 1 : 2]!;
        if (!gradient || groups === heads) return gradient;
        const [outer, inner] = layout === "bhsd" ? [1, tokens] : [tokens, 1];
        return sumMiddle(gradient, batch * outer * groups, heads / groups, inner * like.shape[3]!).alias(
          like.shape,
        );
      };
      return [shared(dq, q), shared(dk, k), dv, ddecay, forState ? back!.last : undefined];
    },
  }) as [Tensor, Tensor];
  return { out, state: next };
}

/**
 * sum_{u <= t} scale (q_t . k_u) exp(sum of the log decays of u+1..t), or of the absolute values: [batch, heads, tokens, 1]
 * or by layout. Without gradient.
 */
export function decayedRowSums(
  { q, k, logDecay }: Pick<DecayedInputs, "q" | "k" | "logDecay">,
  options: { readonly scale: number; readonly absolute: boolean; readonly layout?: AttentionLayout },
): Tensor {
  const { scale, absolute, layout = "bhsd" } = options;
  const { gpu } = q;
  return gpu.scope(() => {
    const ones = gpu.full([...q.shape.slice(0, 3), 1], 1);
    const kernels = kernelsFor({ q, v: ones, logDecay }, layout, false);
    const [Q, K, Z] = [kernels.rows(q, false), kernels.rows(k, false), kernels.rows(ones, true)];
    return kernels.tiles(Q, K, Z, q.shape[layout === "bhsd" ? 2 : 1]!, { scale, absolute });
  });
}
