import {
  applyOp,
  concat,
  ConfigError,
  defineKernel,
  expectDType,
  expectShape,
  grid1d,
  matmul,
  slice,
  sumMiddle,
  transpose,
  number,
  schema,
  tensor,
  type BindingSpec,
  type Kernel,
  type KernelCall,
  type Tensor,
  type Config,
} from "@x/kernels";
import { cut, type Chunks } from "../state/chunks.js";
import {
  rgLruBackwardEnds,
  rgLruBackwardGates,
  rgLruBackwardScan,
  rgLruCarry,
  rgLruEnds,
  rgLruForward,
  rgLruParams,
  ROWS,
  type RgLruVariant,
} from "./rg_lru.wgsl.js";

const common = (v: RgLruVariant): Record<string, BindingSpec> => ({
  gates: "read f32",
  channels: "read f32",
  ...(v.segments ? { segment_pos: "read i32" } : {}),
});

const endsKernel: Kernel<RgLruVariant> = defineKernel({
  name: "rgLruEnds",
  bindings: (v: RgLruVariant) => ({
    ...common(v),
    x: "read f32" as const,
    borders: "write vec2<f32>" as const,
  }),
  params: rgLruParams,
  wgsl: rgLruEnds,
});
const carryKernel: Kernel<{ reverse: boolean; start: boolean }> = defineKernel({
  name: "rgLruCarry",
  bindings: (v: { reverse: boolean; start: boolean }) => ({
    ...(v.start ? { channels: "read f32" as const } : {}),
    borders: "read_write vec2<f32>" as const,
  }),
  params: rgLruParams,
  wgsl: rgLruCarry,
});
const forwardKernel: Kernel<RgLruVariant & { split: boolean }> = defineKernel({
  name: "rgLru",
  bindings: (v: RgLruVariant & { split: boolean }) => ({
    ...common(v),
    x: "read f32" as const,
    ...(v.split ? { borders: "read vec2<f32>" as const } : {}),
    out: "write f32" as const,
  }),
  params: rgLruParams,
  wgsl: rgLruForward,
});
const backwardEndsKernel: Kernel<RgLruVariant> = defineKernel({
  name: "rgLruBackwardEnds",
  bindings: (v: RgLruVariant) => ({
    ...common(v),
    dout: "read f32" as const,
    borders: "write vec2<f32>" as const,
  }),
  params: rgLruParams,
  wgsl: rgLruBackwardEnds,
});
const backwardScanKernel: Kernel<RgLruVariant & { split: boolean }> = defineKernel({
  name: "rgLruBackwardScan",
  bindings: (v: RgLruVariant & { split: boolean }) => ({
    ...common(v),
    dout: "read f32" as const,
    ...(v.split ? { borders: "read vec2<f32>" as const } : {}),
    lambda: "write f32" as const,
    ...(v.start ? { dstate: "write f32" as const } : {}),
  }),
  params: rgLruParams,
  wgsl: rgLruBackwardScan,
});
const backwardGatesKernel: Kernel<RgLruVariant> = defineKernel({
  name: "rgLruBackwardGates",
  bindings: (v: RgLruVariant) => ({
    ...common(v),
    x: "read f32" as const,
    h: "read f32" as const,
    lambda: "read_write f32" as const,
    dgates: "write f32" as const,
    parts: "write f32" as const,
  }),
  params: rgLruParams,
  wgsl: rgLruBackwardGates,
});

const PARAMETERS = schema("rgLru", {
  wInput: tensor(
    "Gate of the input, block-diagonal, input index first: [blocks, width / blocks, width / blocks].",
  ),
  bInput: tensor("Its bias, [blocks, width / blocks]."),
  wRec: tensor("Gate of the recurrence, as wInput."),
  bRec: tensor("Its bias, as bInput."),
  aParam: tensor("softplus of it is the rate of decay, [width]."),
});
export type RgLruParameters = Config<typeof PARAMETERS>;

const OPTIONS = schema("rgLru", {
  state: tensor("The state before the first token, [batch, width].", { defaultDoc: "zeros" }),
  segmentPos: tensor(
    "i32 [batch, seq]: position of each token in its document; where it is 0 the state is dropped.",
    { optional: true },
  ),
  c: number("Factor of the decay.", { min: 0, default: 8 }),
});
export type RgLruOptions = Config<typeof OPTIONS>;

/**
 * Griffin's real-gated linear recurrent unit. With i_t = sigmoid(x_t W_input + b_input) and
 * r_t = sigmoid(x_t W_rec + b_rec), block by block, log a_t = -c r_t softplus(aParam),
 * h_t = a_t h_{t-1} + (1 - a_t^2)^(1/2) i_t x_t; where a document begins a_t is 0 and the factor 1.
 *
 * One kernel walks a chunk of tokens; few channels and a long text are cut into chunks, three dispatches. The backward
 * reads h and computes the gates again; nothing else is kept.
 *
 * x [batch, seq, width], f32; gives out = h and state, its last row [batch, width]. Gradients reach all but positions;
 * that of the root is held at 1000 where a_t is almost 1.
 * De et al. 2024, arXiv:2402.19427, section 2.4 (there a = sigmoid(Lambda), aParam = -Lambda).
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function rgLru(
  x: Tensor,
  parameters: RgLruParameters,
  options: RgLruOptions = {},
): { out: Tensor; state: Tensor } {
  const who = OPTIONS.name;
  const { wInput, bInput, wRec, bRec, aParam } = PARAMETERS.read(parameters);
  const { state, segmentPos, c } = OPTIONS.read(options);
  for (const [name, t] of Object.entries({ x, wInput, bInput, wRec, bRec, aParam, state }))
    if (t !== undefined) expectDType(who, name, t, "f32");
  if (segmentPos) expectDType(who, "segmentPos", segmentPos, "i32");
  const names = expectShape(who, "x", x, ["batch", "seq", "width"]);
  expectShape(who, "wInput", wInput, ["blocks", "block", "block"], names);
  expectShape(who, "wRec", wRec, ["blocks", "block", "block"], names);
  expectShape(who, "bInput", bInput, ["blocks", "block"], names);
  expectShape(who, "bRec", bRec, ["blocks", "block"], names);
  expectShape(who, "aParam", aParam, ["width"], names);
  if (state) expectShape(who, "state", state, ["batch", "width"], names);
  if (segmentPos) expectShape(who, "segmentPos", segmentPos, ["batch", "seq"], names);
  const n = names as Record<"batch" | "seq" | "width" | "blocks" | "block", number>;
  if (n.blocks * n.block !== n.width)
    throw new ConfigError(
      who,
      `wInput has ${n.blocks} blocks of ${n.block}; together they must be x's width, ${n.width}`,
    );
  if (x.size === 0) throw new ConfigError(who, "x has no tokens");
  return x.gpu.scope(() => {
    const rows = transpose(x.reshape([n.batch * n.seq, n.blocks, n.block]), [1, 0, 2]);
    const gates = matmul(rows, concat([wInput, wRec], 2)); // [blocks, B T, 2 block]
    const row = (t: Tensor): Tensor => t.reshape([t.size / n.width, n.width]);
    const channels = concat([bInput, bRec, aParam, ...(state ? [state] : [])].map(row));
    const out = recurrence(x, gates, channels, { segmentPos, start: state !== undefined, block: n.block, c });
    return { out, state: slice(out, { axis: 1, start: n.seq - 1 }).reshape([n.batch, n.width]) };
  });
}

interface RecurrenceOptions {
  readonly segmentPos: Tensor | undefined;
  /** `channels` ends in the incoming state. */
  readonly start: boolean;
  readonly block: number;
  readonly c: number;
}

function recurrence(
  x: Tensor,
  gates: Tensor,
  channels: Tensor,
  { segmentPos, start, block, c }: RecurrenceOptions,
): Tensor {
  const { gpu } = x;
  const [batch, rows, width] = x.shape as [number, number, number];
  const variant: RgLruVariant = { segments: segmentPos !== undefined, start };
  const shared = { gates, channels, segment_pos: segmentPos };
  const whole = cut(gpu, rows, batch * width);
  const split = whole.chunks > 1;
  const call = ({ chunk, chunks }: Chunks): Pick<KernelCall<unknown>, "params" | "workgroups"> => ({
    params: { batch, rows, width, block, chunk, chunks, c },
    workgroups: grid1d(Math.ceil((batch * chunks * width) / 64)),
  });
  /** What comes into each chunk, from the chunks' own ends. */
  const carry = (kernel: Kernel<RgLruVariant>, of: Record<string, Tensor>, reverse: boolean): Tensor => {
    const borders = gpu.empty([batch, whole.chunks, width, 2]);
    gpu.run(kernel, { ...call(whole), variant, bindings: { ...shared, ...of, borders } });
    gpu.run(carryKernel, {
      ...call(whole),
      variant: { reverse, start: start && !reverse },
      bindings: { channels: start && !reverse ? channels : undefined, borders },
    });
    return borders;
  };
  return applyOp({
    name: "rgLru",
    inputs: [x, gates, channels],
    forward: () => {
      const out = gpu.empty(x.shape);
      gpu.run(forwardKernel, {
        ...call(whole),
        variant: { ...variant, split },
        bindings: { ...shared, x, borders: split ? carry(endsKernel, { x }, false) : undefined, out },
      });
      return { outputs: [out] };
    },
    backward: ({ grads, outputs }) => {
      const dout = grads[0]!;
      const dx = gpu.empty(x.shape);
      const dstate = start ? gpu.empty([batch, width]) : undefined;
      gpu.run(backwardScanKernel, {
        ...call(whole),
        variant: { ...variant, split },
        bindings: {
          ...shared,
          dout,
          borders: split ? carry(backwardEndsKernel, { dout }, true) : undefined,
          lambda: dx,
          dstate,
        },
      });
      const chunks = Math.ceil(rows / ROWS);
      const dgates = gpu.empty(gates.shape);
      const parts = gpu.empty([batch * chunks, 3 * width]);
      gpu.run(backwardGatesKernel, {
        ...call({ chunk: ROWS, chunks }),
        variant,
        bindings: { ...shared, x, h: outputs[0]!, lambda: dx, dgates, parts },
      });
      const sums = sumMiddle(parts, 1, batch * chunks, 3 * width).alias([3, width]);
      return [dx, dgates, dstate ? concat([sums, dstate]) : sums];
    },
  })[0]!;
}
