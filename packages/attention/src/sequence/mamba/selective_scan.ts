import {
  applyOp,
  concat,
  ConfigError,
  defineKernel,
  expectDType,
  expectShape,
  grid1d,
  isTracked,
  pad,
  stridedCopy,
  stridesOf,
  sumMiddle,
  boolean,
  oneOf,
  schema,
  tensor,
  type Kernel,
  type Tensor,
  type Config,
} from "@x/kernels";
import { cut } from "../state/chunks.js";
import {
  bcElement,
  chunkParams,
  LANES,
  scanChunks,
  scanForward,
  scanParams,
  scanSummary,
  STEP,
  type ChunkVariant,
  type ForwardVariant,
  type ScanVariant,
} from "./selective_scan.wgsl.js";
import {
  scanBackward,
  scanBackwardChannels,
  scanBackwardPrepare,
  scanBackwardSummary,
} from "./selective_scan_backward.wgsl.js";

const forwardKernel: Kernel<ForwardVariant> = defineKernel({
  name: "selectiveScan",
  bindings: (v: ForwardVariant) => ({
    u: "read f32" as const,
    delta: "read f32" as const,
    bc: `read ${bcElement(v)}` as const,
    channels: "read f32" as const,
    ...(v.gate ? { z: "read f32" as const } : {}),
    kept: "read_write vec4<f32>" as const,
    ...(v.gate && v.keep ? { before_gate: "write f32" as const } : {}),
    out: "write f32" as const,
  }),
  params: scanParams,
  wgsl: scanForward,
});
const summaryKernel: Kernel<ScanVariant> = defineKernel({
  name: "selectiveScanSummary",
  bindings: (v: ScanVariant) => ({
    u: "read f32" as const,
    delta: "read f32" as const,
    bc: `read ${bcElement(v)}` as const,
    channels: "read f32" as const,
    kept: "write vec4<f32>" as const,
    sums: "write f32" as const,
  }),
  params: scanParams,
  wgsl: scanSummary,
});
const chunksKernel: Kernel<ChunkVariant> = defineKernel({
  name: "selectiveScanChunks",
  bindings: { channels: "read f32", sums: "read f32", kept: "read_write f32" },
  params: chunkParams,
  wgsl: scanChunks,
});
const prepareKernel: Kernel<ScanVariant & { gate: boolean }> = defineKernel({
  name: "selectiveScanBackwardPrepare",
  bindings: (v: ScanVariant & { gate: boolean }) => ({
    dout: "read f32" as const,
    delta: "read f32" as const,
    ...(v.bias ? { channels: "read f32" as const } : {}),
    ...(v.gate ? { z: "read f32" as const, before_gate: "read f32" as const, dz: "write f32" as const } : {}),
    g: "write f32" as const,
    s: "write f32" as const,
  }),
  params: { count: "u32", dim: "u32", width: "u32" },
  wgsl: scanBackwardPrepare,
});
const backwardSummaryKernel: Kernel<ScanVariant> = defineKernel({
  name: "selectiveScanBackwardSummary",
  bindings: (v: ScanVariant) => ({
    s: "read f32" as const,
    g: "read f32" as const,
    bc: `read ${bcElement(v)}` as const,
    channels: "read f32" as const,
    adjoint: "write vec4<f32>" as const,
    sums: "write f32" as const,
  }),
  params: scanParams,
  wgsl: scanBackwardSummary,
});
const backwardKernel: Kernel<ScanVariant & { carry: boolean }> = defineKernel({
  name: "selectiveScanBackward",
  bindings: (v: ScanVariant) => ({
    u: "read f32" as const,
    bc: `read ${bcElement(v)}` as const,
    channels: "read f32" as const,
    kept: "read vec4<f32>" as const,
    g: "read_write f32" as const,
    s: "read_write f32" as const,
    adjoint: "read_write vec4<f32>" as const,
    dbc: `write ${bcElement(v)}` as const,
  }),
  params: scanParams,
  wgsl: scanBackward,
});
const channelsKernel: Kernel<ScanVariant> = defineKernel({
  name: "selectiveScanBackwardChannels",
  bindings: { adjoint: "read f32", dchannels: "write f32" },
  params: { dim: "u32", states: "u32", width: "u32", chunks: "u32", batch: "u32" },
  wgsl: scanBackwardChannels,
});

export type Discretization = "mamba" | "zoh";

const OPTIONS = schema("selectiveScan", {
  z: tensor("out is multiplied by silu(z), [batch, seq, dim].", { optional: true }),
  state: tensor("The state before the first token, [batch, dim, N].", { defaultDoc: "zeros" }),
  dSkip: tensor("Factor of u that is added to y, [dim].", { optional: true }),
  deltaBias: tensor("Added to delta before softplus, [dim].", { optional: true }),
  deltaSoftplus: boolean("delta goes through softplus.", { default: true }),
  discretization: oneOf(
    'How b is taken to discrete steps: "mamba" multiplies it by delta, "zoh" by (e^(delta a) - 1) / a.',
    ["mamba", "zoh"],
    { default: "mamba" },
  ),
});
export type SelectiveScanOptions = Config<typeof OPTIONS>;

/**
 * Mamba's selective scan (S6): a diagonal state space model whose step, input and output depend on the token. With
 * delta = softplus(delta + deltaBias),
 * x_t[d, n] = e^(delta_t[d] a[d, n]) x_{t-1}[d, n] + delta_t[d] b_t[n] u_t[d],
 * y_t[d] = sum_n c_t[n] x_t[d, n] + dSkip[d] u_t[d]; out = y silu(z).
 *
 * One kernel walks a chunk of tokens with the states in registers; few channels and a long text are cut into chunks
 * (Blelloch's scan over the chunks' ends, three dispatches). A gradient to come keeps the state of every 16th token,
 * [B, T / 16, D, N], and computes the others again.
 *
 * u, delta [batch, seq, dim], a [dim, N] (negative), b, c [batch, seq, N], f32; gives out [batch, seq, dim] and the
 * last state [batch, dim, N]. Gradients reach every tensor, the states included, summed in a fixed order.
 *
 * Gu and Dao 2023, arXiv:2312.00752, algorithm 2 and section 3.3.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function selectiveScan(
  u: Tensor,
  delta: Tensor,
  a: Tensor,
  b: Tensor,
  c: Tensor,
  options: SelectiveScanOptions = {},
): { out: Tensor; state: Tensor } {
  const who = OPTIONS.name;
  const { z, state, dSkip, deltaBias, deltaSoftplus, discretization } = OPTIONS.read(options);
  for (const [name, t] of Object.entries({ u, delta, a, b, c, z, state, dSkip, deltaBias }))
    if (t !== undefined) expectDType(who, name, t, "f32");
  const names = expectShape(who, "u", u, ["batch", "seq", "dim"]);
  expectShape(who, "delta", delta, ["batch", "seq", "dim"], names);
  expectShape(who, "a", a, ["dim", "N"], names);
  expectShape(who, "b", b, ["batch", "seq", "N"], names);
  expectShape(who, "c", c, ["batch", "seq", "N"], names);
  if (z) expectShape(who, "z", z, ["batch", "seq", "dim"], names);
  if (state) expectShape(who, "state", state, ["batch", "dim", "N"], names);
  if (dSkip) expectShape(who, "dSkip", dSkip, ["dim"], names);
  if (deltaBias) expectShape(who, "deltaBias", deltaBias, ["dim"], names);
  if (u.size === 0 || a.size === 0) throw new ConfigError(who, "u has no tokens, or a no states");
  const skipped = { dSkip, deltaBias, deltaSoftplus, discretization };
  return u.gpu.scope(() => scan(u, delta, concat([b, c], 2), a, { z, state, ...skipped }));
}

/** The scan of checked tensors; bc [B, T, 2 N] holds b and c side by side. */
export function scan(
  u: Tensor,
  delta: Tensor,
  bc: Tensor,
  a: Tensor,
  options: SelectiveScanOptions,
): { out: Tensor; state: Tensor } {
  const { z, state, dSkip, deltaBias, deltaSoftplus = true, discretization = "mamba" } = options;
  const { gpu } = u;
  const [batch, rows, dim] = u.shape as [number, number, number];
  const states = a.shape[1]!;
  const quads = Math.ceil(states / 4);
  const columns = [a, ...[dSkip, deltaBias].flatMap((t) => (t ? [t.reshape([dim, 1])] : []))];
  const channels = columns.length > 1 ? concat(columns, 1) : a;
  const width = channels.shape[1]!;
  const groups = Math.ceil(dim / LANES);
  const { chunk, chunks } = cut(gpu, rows, groups * LANES * batch, STEP);
  const keep = isTracked([u, delta, bc, channels, z, state]);
  const step = keep ? STEP : chunk;
  const slots = Math.ceil(rows / step) + 1;
  const params = { rows, dim, states, width, chunk, chunks, step, slots, quads };
  const own: ScanVariant = {
    quads,
    vec: states % 4 === 0,
    zoh: discretization === "zoh",
    softplus: deltaSoftplus,
    unroll: !gpu.info.software,
    skip: dSkip !== undefined,
    bias: deltaBias !== undefined,
  };
  const grid: [number, number, number] = [groups, chunks, batch];
  const join = (
    kept: Tensor,
    sums: Tensor,
    quadsOfSlot: number,
    slotsOfBatch: number,
    variant: ChunkVariant,
  ): void => {
    gpu.run(chunksKernel, {
      variant,
      bindings: { channels, sums, kept },
      params: {
        ...params,
        slots: slotsOfBatch,
        quads: quadsOfSlot,
        stride: variant.reverse ? 1 : chunk / step,
        batch,
      },
      workgroups: grid1d(Math.ceil((batch * dim * states) / 64)),
    });
  };
  const [out, final] = applyOp({
    name: "selectiveScan",
    inputs: [u, delta, bc, channels, z, state],
    forward: () => {
      const kept = gpu.empty([batch, slots, dim, 4 * quads]);
      if (state) copySlot(state, kept, 0, "in");
      if (chunks > 1) {
        const sums = gpu.empty([batch, chunks, dim]);
        gpu.run(summaryKernel, {
          variant: own,
          bindings: { u, delta, bc, channels, kept, sums },
          params,
          workgroups: [groups, chunks - 1, batch],
        });
        join(kept, sums, quads, slots, { reverse: false, carry: state !== undefined });
      }
      const y = gpu.empty(u.shape);
      const before = z && keep ? gpu.empty(u.shape) : undefined;
      gpu.run(forwardKernel, {
        variant: { ...own, carry: state !== undefined, gate: z !== undefined, keep },
        bindings: { u, delta, bc, channels, z, kept, before_gate: before, out: y },
        params,
        workgroups: grid,
      });
      const last = gpu.empty([batch, dim, states]);
      copySlot(last, kept, slots - 1, "out");
      return { outputs: [y, last], saved: before ? [kept, before] : [kept] };
    },
    backward: ({ grads, saved }) => {
      const [kept, before] = saved;
      const dout = grads[0] ?? gpu.zeros(u.shape);
      const [du, ddelta] = [gpu.empty(u.shape), gpu.empty(u.shape)];
      const dz = z && gpu.empty(u.shape);
      gpu.run(prepareKernel, {
        variant: { ...own, gate: z !== undefined },
        bindings: {
          dout,
          delta,
          channels: deltaBias && channels,
          z,
          before_gate: before,
          dz,
          g: du,
          s: ddelta,
        },
        params: { count: u.size, dim, width },
        workgroups: grid1d(Math.ceil(u.size / 64)),
      });
      const adjoint = gpu.empty([batch, chunks + 1, dim, 4 * (quads + 1)]);
      const carry = grads[1] !== undefined;
      if (grads[1]) copySlot(grads[1], adjoint, chunks, "in");
      if (chunks > 1) {
        const sums = gpu.empty([batch, chunks, dim]);
        gpu.run(backwardSummaryKernel, {
          variant: own,
          bindings: { s: ddelta, g: du, bc, channels, adjoint, sums },
          params,
          workgroups: [groups, chunks - 1, batch],
        });
        join(adjoint, sums, quads + 1, chunks + 1, { reverse: true, carry });
      }
      const partial = gpu.empty([groups, ...bc.shape]);
      gpu.run(backwardKernel, {
        variant: { ...own, carry },
        bindings: { u, bc, channels, kept, g: du, s: ddelta, adjoint, dbc: partial },
        params,
        workgroups: grid,
      });
      const dchannels = gpu.empty(channels.shape);
      gpu.run(channelsKernel, {
        variant: own,
        bindings: { adjoint, dchannels },
        params: { dim, states, width, chunks, batch },
        workgroups: grid1d(Math.ceil(channels.size / 64)),
      });
      const dstate = state && gpu.empty(state.shape);
      if (dstate) copySlot(dstate, adjoint, 0, "out");
      return [du, ddelta, sumMiddle(partial, 1, groups, bc.size).alias(bc.shape), dchannels, dz, dstate];
    },
  });
  return { out: out!, state: final! };
}

/** Between a state [B, D, N] and slot `slot` of [B, slots, D, padded]; what pads it is written as zeros. */
function copySlot(state: Tensor, kept: Tensor, slot: number, direction: "in" | "out"): void {
  const [, slots, dim, padded] = kept.shape as [number, number, number, number];
  const width = state.shape[2]!;
  const missing = direction === "in" ? 4 * Math.ceil(width / 4) - width : 0;
  const whole = missing > 0 ? pad(state, 2, 0, missing) : state;
  const outer = { tensor: whole, strides: stridesOf(whole.shape) };
  const inner = { tensor: kept, offset: slot * dim * padded, strides: [slots * dim * padded, padded, 1] };
  if (direction === "in") stridedCopy("selectiveScan", whole.shape, outer, inner);
  else stridedCopy("selectiveScan", whole.shape, inner, outer);
}
