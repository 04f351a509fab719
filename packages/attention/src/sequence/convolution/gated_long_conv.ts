import {
  causalConv1d,
  checkConfig,
  ConfigError,
  defineKernel,
  e,
  elementwise,
  expectBoolean,
  expectDType,
  expectOneOf,
  expectShape,
  grid1d,
  integer,
  isTracked,
  linear,
  matrix,
  mul,
  randomNormal,
  schema,
  slice,
  split,
  stack,
  zeros,
  type Config,
  type Draw,
  type Kernel,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { expectTokens } from "../../block/block.js";
import { CHANNELS, stage } from "./gated_long_conv.wgsl.js";
import { continuedConvolution, longConvolution, type ConvolutionForm } from "./long_convolution.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import type { StatePlan } from "../state/sequence_state.js";

export interface GatedLongConvParameters {
  /** [order, dim, taps] */
  readonly filters: Tensor;
  /** [order, dim] */
  readonly skip: Tensor;
}

export interface GatedLongConvOptions {
  /** "direct", "fft", or the faster for the length: "auto" (default). Equal up to rounding. */
  readonly form?: ConvolutionForm;
  /** [batch, order, taps - 1, dim]: what each convolution was given before v, oldest first; default 0. */
  readonly state?: Tensor | undefined;
  /** Give the state after the last token; default: if one came in. */
  readonly returnState?: boolean;
}

const gate = elementwise("longConvGate", ["gate", "y", "z", "skip"], (g, y, z, skip) =>
  e.mul(g, e.add(y, e.mul(skip, z))),
);

/** The recurrence over the order; the state is one tensor of inputs for each convolution. */
function stages(
  v: Tensor,
  gates: readonly Tensor[],
  { filters, skip }: GatedLongConvParameters,
  form: ConvolutionForm,
  state?: readonly Tensor[],
): { out: Tensor; state: Tensor[] } {
  const [, dim, taps] = filters.shape as [number, number, number];
  const next: Tensor[] = [];
  let z = v;
  for (const [n, by] of gates.entries()) {
    const one = { axis: 0, start: n, end: n + 1 };
    const filter = slice(filters, one).reshape([dim, taps]);
    const before = state?.[n];
    const { y, inputs } = before
      ? continuedConvolution(z, filter, before, form)
      : { y: longConvolution(z, filter, { form }), inputs: undefined };
    if (inputs) next.push(inputs);
    z = gate(by, y, z, slice(skip, one).reshape([dim]));
  }
  return { out: z, state: next };
}

const stageKernel: Kernel<undefined> = defineKernel({
  name: "gatedLongConvStage",
  bindings: {
    z: "read f32",
    gates: "read f32",
    filters: "read f32",
    skip: "read f32",
    before: "read f32",
    out: "write f32",
    next: "write f32",
  },
  params: {
    batch: "u32",
    seq: "u32",
    dim: "u32",
    taps: "u32",
    stage: "u32",
    z_row: "u32",
    gate_row: "u32",
    gate_offset: "u32",
  },
  wgsl: stage,
});

/**
 * `stages` for fewer tokens than taps and without a gradient, one dispatch each. `projected` [batch, seq, (order + 1)
 * dim] holds v, then the gates.
 */
function decodeStages(
  projected: Tensor,
  { filters, skip }: GatedLongConvParameters,
  state: readonly Tensor[],
): { out: Tensor; state: Tensor[] } {
  const { gpu } = projected;
  const [batch, seq, width] = projected.shape as [number, number, number];
  const [order, dim, taps] = filters.shape as [number, number, number];
  const next: Tensor[] = [];
  let z = projected;
  for (let n = 0; n < order; n++) {
    const [out, inputs] = [gpu.empty([batch, seq, dim]), gpu.empty([batch, taps - 1, dim])];
    gpu.run(stageKernel, {
      bindings: { z, gates: projected, filters, skip, before: state[n]!, out, next: inputs },
      params: {
        ...{ batch, seq, dim, taps, stage: n },
        ...{ z_row: n === 0 ? width : dim, gate_row: width, gate_offset: (n + 1) * dim },
      },
      workgroups: grid1d(batch * seq * Math.ceil(dim / CHANNELS)),
    });
    next.push(inputs);
    z = out;
  }
  return { out: z, state: next };
}

/**
 * Gated long convolutions, the recurrence of Hyena for given filters: z_0 = v,
 *
 *   z_{n+1} = gates_n (conv(filters_n, z_n) + skip_n z_n), out = z_N,
 *   conv(f, z)_t = sum_{l < min(taps, t + 1)} f_l z_{t-l}.
 *
 * v [batch, seq, dim], gates [batch, order, seq, dim], f32; taps may be more or fewer than seq. The state, of the inputs
 * that later tokens still see, makes pieces equal the whole. Poli et al. 2023, arXiv:2302.10866, definition 3.1.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function gatedLongConv(
  v: Tensor,
  gates: Tensor,
  parameters: GatedLongConvParameters,
  options: GatedLongConvOptions = {},
): { out: Tensor; state?: Tensor } {
  const who = "gatedLongConv";
  checkConfig(who, parameters, ["filters", "skip"]);
  checkConfig(who, options, ["form", "state", "returnState"]);
  const { form = "auto", state, returnState = state !== undefined } = options;
  expectOneOf(who, "form", form, ["auto", "direct", "fft"]);
  expectBoolean(who, "returnState", returnState);
  const { filters, skip } = parameters;
  for (const [name, t] of Object.entries({ v, gates, filters, skip, state }))
    if (t !== undefined) expectDType(who, name, t, "f32");
  const names: Record<string, number> = {};
  const { seq, dim } = expectShape(who, "v", v, ["batch", "seq", "dim"], names) as {
    seq: number;
    dim: number;
  };
  expectTokens(who, seq, "v");
  expectShape(who, "gates", gates, ["batch", "order", "seq", "dim"], names);
  expectShape(who, "filters", filters, ["order", "dim", "taps"], names);
  expectShape(who, "skip", skip, ["order", "dim"], names);
  const { batch, order, taps } = names as { batch: number; order: number; taps: number };
  if (order === 0 || taps === 0)
    throw new ConfigError(who, `filters are [${order}, ${dim}, ${taps}]; they must have an order and taps`);
  if (state) expectShape(who, "state", state, [batch, order, taps - 1, dim]);
  return v.gpu.scope(() => {
    const each = (x: Tensor, rows: number): Tensor[] =>
      split(
        x,
        Array.from({ length: order }, () => 1),
        1,
      ).map((t) => t.reshape([batch, rows, dim]));
    const before = returnState ? (state ?? v.gpu.zeros([batch, order, taps - 1, dim])) : undefined;
    const run = stages(v, each(gates, seq), parameters, form, before && each(before, taps - 1));
    return returnState ? { out: run.out, state: stack(run.state, 1) } : { out: run.out };
  });
}

const LAYER = schema("GatedLongConv", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  order: integer("Convolutions, each with its gate.", { min: 1, default: 2 }),
  taps: integer("Tokens that a filter reaches back over.", { min: 1 }),
  shortTaps: integer("Taps of the short convolution before.", { min: 1, default: 3 }),
});
export type GatedLongConvConfig = Config<typeof LAYER>;

/**
 * `gatedLongConv` between projections, as in Hyena, with filters that are parameters: (v, gates) = shortConv(x W^T + b),
 * then the recurrence, then out W^T + b. A token sees order (taps - 1) + shortTaps - 1 before it.
 *
 * Parameters in_proj [(order + 1) dim, dim], short_filter [(order + 1) dim, shortTaps], out_proj [dim, dim] (`.weight`
 * and `.bias`), filters [order, dim, taps], skip [order, dim].
 */
export class GatedLongConv extends SequenceMixer<typeof LAYER> {
  static readonly schema = LAYER;

  /**
   * Names, shapes and initial values of the parameters: filters are normal numbers that fade to a hundredth over 0.3 to
   * 1.5 of their length, by channel (Hyena's window), with squares that sum to one. @throws ConfigError
   */
  static plan(config: GatedLongConvConfig): ParameterPlan {
    const { dim, order, taps, shortTaps } = LAYER.read(config);
    const inner = (order + 1) * dim;
    const fading: Draw = (gpu, shape, random) => {
      const windows = Array.from({ length: dim }, (_, d) => {
        const reach = taps * (0.3 + (1.2 * (d + 0.5)) / dim);
        const window = Array.from({ length: taps }, (__, l) => 0.01 ** (l / reach));
        const size = Math.hypot(...window);
        return window.map((w) => w / size);
      });
      return mul(randomNormal(gpu, shape, random), gpu.tensor(windows.flat(), [dim, taps]));
    };
    return {
      "in_proj.weight": matrix(inner, dim),
      "in_proj.bias": zeros(inner),
      "short_filter.weight": { shape: [inner, shortTaps], init: { std: shortTaps ** -0.5 } },
      "short_filter.bias": zeros(inner),
      filters: { shape: [order, dim, taps], init: fading },
      skip: { shape: [order, dim], init: { std: 1 } },
      "out_proj.weight": matrix(dim, dim, "output"),
      "out_proj.bias": zeros(dim),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: GatedLongConvConfig, parameters: Parameters) {
    super(LAYER, config, GatedLongConv.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { dim, order, taps, shortTaps } = this.config;
    return {
      short: { shape: [batch, shortTaps - 1, (order + 1) * dim] },
      ...Object.fromEntries(
        Array.from({ length: order }, (_, n) => [`long${n}`, { shape: [batch, taps - 1, dim] }]),
      ),
    };
  }

  protected run(x: Tensor, { short: before, residual, ...rest }: Given): Given & { readonly out: Tensor } {
    const { order, taps } = this.config;
    const p = this.weights;
    const long = Array.from({ length: order }, (_, n) => `long${n}`);
    const short = causalConv1d(
      linear(x, p["in_proj.weight"]!, p["in_proj.bias"]),
      p["short_filter.weight"]!,
      { bias: p["short_filter.bias"], state: before },
    );
    const own = { filters: p["filters"]!, skip: p["skip"]! };
    const held = before && long.map((name) => rest[name]!);
    const run =
      held && x.shape[1]! < taps && !isTracked([short.out, own.filters, own.skip])
        ? decodeStages(short.out, own, held)
        : this.#stages(short.out, own, held);
    return {
      out: linear(run.out, p["out_proj.weight"]!, p["out_proj.bias"], { residual }),
      short: short.state,
      ...Object.fromEntries(long.map((name, n) => [name, run.state[n]])),
    };
  }

  #stages(projected: Tensor, own: GatedLongConvParameters, held?: Tensor[]): ReturnType<typeof stages> {
    const { dim, order } = this.config;
    const sizes = Array.from({ length: order + 1 }, () => dim);
    const [v, ...gates] = split(projected, sizes);
    return stages(v!, gates, own, "auto", held);
  }
}
