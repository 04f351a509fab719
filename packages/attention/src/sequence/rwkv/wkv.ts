import {
  applyOp,
  ConfigError,
  defineKernel,
  expectDType,
  expectShape,
  grid1d,
  isTracked,
  stack,
  stridedCopy,
  schema,
  tensor,
  type Config,
  type Field,
  type Kernel,
  type KernelCall,
  type StridedView,
  type Tensor,
} from "@x/kernels";
import {
  STEP,
  wkvBackward,
  wkvBackwardChannels,
  wkvBackwardEnds,
  wkvCarry,
  wkvEnds,
  wkvForward,
  wkvParams,
  type WkvVariant,
} from "./wkv.wgsl.js";
import { cut } from "../state/chunks.js";

const forwardKernel: Kernel<WkvVariant & { keep: boolean }> = defineKernel({
  name: "wkv",
  bindings: {
    k: "read f32",
    v: "read f32",
    channels: "read f32",
    kept: "read_write f32",
    out: "write f32",
  },
  params: wkvParams,
  wgsl: wkvForward,
});
const endsKernel: Kernel<undefined> = defineKernel({
  name: "wkvEnds",
  bindings: { k: "read f32", v: "read f32", channels: "read f32", kept: "write f32" },
  params: wkvParams,
  wgsl: wkvEnds,
});
const carryKernel: Kernel<WkvVariant & { reverse: boolean }> = defineKernel({
  name: "wkvCarry",
  bindings: { channels: "read f32", kept: "read_write f32" },
  params: wkvParams,
  wgsl: wkvCarry,
});
const backwardEndsKernel: Kernel<undefined> = defineKernel({
  name: "wkvBackwardEnds",
  bindings: {
    k: "read f32",
    v: "read f32",
    channels: "read f32",
    kept: "read f32",
    g: "read f32",
    adjoint: "write f32",
  },
  params: wkvParams,
  wgsl: wkvBackwardEnds,
});
const backwardKernel: Kernel<undefined> = defineKernel({
  name: "wkvBackward",
  bindings: {
    k: "read f32",
    v: "read f32",
    channels: "read f32",
    kept: "read f32",
    g: "read f32",
    adjoint: "read_write f32",
    dk: "write f32",
    dv: "write f32",
  },
  params: wkvParams,
  wgsl: wkvBackward,
});
const channelsKernel: Kernel<undefined> = defineKernel({
  name: "wkvBackwardChannels",
  bindings: { adjoint: "read f32", dchannels: "write f32" },
  params: { width: "u32", chunks: "u32", batch: "u32" },
  wgsl: wkvBackwardChannels,
});

/** Sums over the tokens so far, (num, den) e^max, each [batch, dim]. */
export interface WkvState {
  readonly num: Tensor;
  readonly den: Tensor;
  /** The largest exponent so far. */
  readonly max: Tensor;
}

const PARTS = ["num", "den", "max"] as const;
const part = (what: string): Field<Tensor, "optional"> =>
  tensor(`${what} before the first token, [batch, dim].`, { defaultDoc: "that of an empty text" });
const OPTIONS = schema("wkv", {
  num: part("Numerator"),
  den: part("Denominator"),
  max: part("Largest exponent"),
});

/**
 * RWKV-4's weighted sum of all values so far: with w = e^timeDecay and u = timeFirst, per channel,
 * wkv_t = (sum_{i<t} e^(k_i - (t-1-i) w) v_i + e^(u + k_t) v_t) / (the same without v).
 *
 * Numerator and denominator are carried as (num, den) e^max with their running maximum, so that no exponent is above 0,
 * forward or backward. One kernel walks a chunk of tokens; few channels and a long text are cut into chunks, three
 * dispatches. A gradient to come keeps the state of every 16th token.
 *
 * k, v [batch, seq, dim], timeDecay, timeFirst [dim], f32; the state is num, den and max [batch, dim], at the beginning
 * 0, 0 and -1e38. Gives out [batch, seq, dim] and the next state; no gradient flows through the states.
 *
 * Peng et al. 2023, arXiv:2305.13048, section 3.1 and appendix D.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function wkv(
  k: Tensor,
  v: Tensor,
  timeDecay: Tensor,
  timeFirst: Tensor,
  options: Config<typeof OPTIONS> = {},
): WkvState & { readonly out: Tensor } {
  const who = OPTIONS.name;
  OPTIONS.read(options);
  const given = PARTS.filter((name) => options[name] !== undefined);
  if (given.length > 0 && given.length < PARTS.length)
    throw new ConfigError(
      who,
      `of the state only ${given.join(" and ")} came; num, den and max belong together`,
    );
  for (const [name, t] of Object.entries({ k, v, timeDecay, timeFirst, ...options }))
    if (t !== undefined) expectDType(who, name, t, "f32");
  const names = expectShape(who, "k", k, ["batch", "seq", "dim"]);
  expectShape(who, "v", v, ["batch", "seq", "dim"], names);
  expectShape(who, "timeDecay", timeDecay, ["dim"], names);
  expectShape(who, "timeFirst", timeFirst, ["dim"], names);
  for (const name of given) expectShape(who, name, options[name]!, ["batch", "dim"], names);
  if (k.size === 0) throw new ConfigError(who, "k has no tokens");
  const state = given.length > 0 ? PARTS.map((name) => options[name]!) : undefined;
  return k.gpu.scope(() => recurrence(k, v, stack([timeDecay, timeFirst]), state));
}

function recurrence(
  k: Tensor,
  v: Tensor,
  channels: Tensor,
  state: readonly Tensor[] | undefined,
): WkvState & { out: Tensor } {
  const { gpu } = k;
  const [batch, rows, width] = k.shape as [number, number, number];
  const { chunk, chunks } = cut(gpu, rows, batch * width, STEP);
  const keep = isTracked([k, v, channels]);
  const step = keep ? STEP : chunk;
  const slots = Math.ceil(rows / step) + 1;
  const call = (
    invocations: number,
    change: Record<string, number> = {},
  ): Pick<KernelCall<unknown>, "params" | "workgroups"> => ({
    params: { batch, rows, width, chunk, chunks, step, slots, stride: Math.floor(chunk / step), ...change },
    workgroups: grid1d(Math.ceil(invocations / 64)),
  });
  const walks = batch * chunks * width;
  const start = state !== undefined;
  const [out, num, den, max] = applyOp({
    name: "wkv",
    inputs: [k, v, channels],
    forward: () => {
      const kept = gpu.empty([batch, slots, width, 3]);
      const strides = [width, 1];
      /** Part i of slot n, as a [B, A] of its own. */
      const inSlot = (n: number, i: number): StridedView => ({
        tensor: kept,
        offset: n * width * 3 + i,
        strides: [slots * width * 3, 3],
      });
      state?.forEach((t, i) => {
        stridedCopy("wkv", t.shape, { tensor: t, strides }, inSlot(0, i));
      });
      if (chunks > 1) {
        gpu.run(endsKernel, { ...call(walks), bindings: { k, v, channels, kept } });
        gpu.run(carryKernel, {
          ...call(batch * width),
          variant: { reverse: false, start },
          bindings: { channels, kept },
        });
      }
      const y = gpu.empty(k.shape);
      gpu.run(forwardKernel, {
        ...call(walks),
        variant: { start, keep },
        bindings: { k, v, channels, kept, out: y },
      });
      const last = PARTS.map((_, i) => {
        const part = gpu.empty([batch, width]);
        stridedCopy("wkv", part.shape, inSlot(slots - 1, i), { tensor: part, strides });
        return part;
      });
      return { outputs: [y, ...last], saved: [kept] };
    },
    backward: ({ grads, saved }) => {
      const [g, kept] = [grads[0], saved[0]!];
      if (!g) return [];
      const adjoint = gpu.empty([batch, chunks + 1, width, 3]);
      if (chunks > 1) {
        gpu.run(backwardEndsKernel, { ...call(walks), bindings: { k, v, channels, kept, g, adjoint } });
        gpu.run(carryKernel, {
          ...call(batch * width, { slots: chunks + 1, stride: 1 }),
          variant: { reverse: true, start: false },
          bindings: { channels, kept: adjoint },
        });
      }
      const [dk, dv] = [gpu.empty(k.shape), gpu.empty(v.shape)];
      gpu.run(backwardKernel, {
        ...call(walks),
        bindings: { k, v, channels, kept, g, adjoint, dk, dv },
      });
      const dchannels = gpu.empty(channels.shape);
      gpu.run(channelsKernel, {
        bindings: { adjoint, dchannels },
        params: { width, chunks, batch },
        workgroups: [Math.ceil((2 * width) / 64)],
      });
      return [dk, dv, dchannels];
    },
  });
  return { out: out!, num: num!, den: den!, max: max! };
}
