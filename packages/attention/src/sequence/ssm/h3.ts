import {
  add,
  checkConfig,
  checkpoint,
  ConfigError,
  e,
  elementwise,
  expectDType,
  expectInteger,
  expectOneOf,
  expectShape,
  integer,
  linear,
  matrix,
  mul,
  oneOf,
  schema,
  slice,
  sum,
  transpose,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { expectTokens } from "../../block/block.js";
import { continuedConvolution, longConvolution } from "../convolution/long_convolution.js";
import { poles } from "./poles.js";
import { powerSums } from "./power_sums.js";
import { advance, type ChannelModel } from "./channel_model.js";
import { s4dPlan } from "./s4d_layer.js";
import { STEPS } from "./steps.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import type { StatePlan } from "../state/sequence_state.js";

export interface H3Parameters {
  /** [dim, dim] and [dim] */
  readonly wQ: Tensor;
  readonly bQ: Tensor;
  readonly wK: Tensor;
  readonly bK: Tensor;
  readonly wV: Tensor;
  readonly bV: Tensor;
  readonly wO: Tensor;
  readonly bO: Tensor;
  /** [dim, taps] */
  readonly shiftKernel: Tensor;
  /** [dim] */
  readonly shiftSkip: Tensor;
  /** The diagonal model of each head, as in `s4d`: [heads], [heads, states], [heads, states, 2], [heads]. */
  readonly logDt: Tensor;
  readonly logAReal: Tensor;
  readonly aImag: Tensor;
  readonly c: Tensor;
  readonly dSkip: Tensor;
}

export interface H3State {
  /** [batch, taps - 1, dim]: keys before the shift, oldest first. */
  readonly shift: Tensor;
  /** [headDim headDim batch, heads, states, 2]: by component of k, component of v, sequence. */
  readonly outer: Tensor;
}

export interface H3Options {
  /** Components of a head; default 1. */
  readonly headDim?: number;
  /** Default "zoh". */
  readonly discretization?: "zoh" | "bilinear";
  /** Default 0. */
  readonly state?: H3State | undefined;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
}

const shifted = elementwise("h3Shift", ["y", "k", "skip"], (y, k, skip) => e.add(y, e.mul(skip, k)));
const weighed = elementwise("h3Weigh", ["q", "y", "kv", "d"], (q, y, kv, d) =>
  e.mul(q, e.add(y, e.mul(d, kv))),
);

/** sum_i q_i (model(k_i v_j) + d k_i v_j): q, k [I, batch, seq, heads], v [J, batch, seq, heads], result as v. */
function throughModel(
  [q, k, v]: readonly [Tensor, Tensor, Tensor],
  d: Tensor,
  model: (u: Tensor) => Tensor,
): Tensor {
  const [rows, ...rest] = q.shape as [number, number, number, number];
  const [batch, seq, heads] = rest;
  const columns = v.shape[0]!;
  const byRow = (x: Tensor): Tensor => x.reshape([rows, 1, ...rest]);
  const kv = mul(byRow(k), v.reshape([1, columns, ...rest]));
  const y = model(kv.reshape([rows * columns * batch, seq, heads])).reshape(kv.shape);
  const each = weighed(byRow(q), y, kv, d);
  return rows === 1 ? each.reshape(v.shape) : sum(each, { axes: 0 });
}

/**
 * H3: linear attention whose sums are state space models. With n = dim / headDim heads, channel h headDim + j:
 *
 *   k_t <- sum_{l < taps} shiftKernel_l k_{t-l} + shiftSkip k_t   (a shift SSM is a finite filter),
 *   o[j, h] = sum_i q[h, i] S4D_h(k[h, i] v[h, j]), out = o wO^T + bO,
 *
 * with o flattened component first (j n + h). u [batch, seq, dim], f32. Of the headDim^2 products of a head, those of one
 * component of k are held at a time, in the gradient too, which computes them again; with a state all of them.
 * Fu et al. 2022, arXiv:2212.14052, section 3.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function h3(
  u: Tensor,
  parameters: H3Parameters,
  options: H3Options = {},
): { out: Tensor; state?: H3State } {
  const who = "h3";
  checkConfig(who, parameters, [
    ...["wQ", "bQ", "wK", "bK", "wV", "bV", "wO", "bO", "shiftKernel", "shiftSkip"],
    ...["logDt", "logAReal", "aImag", "c", "dSkip"],
  ]);
  checkConfig(who, options, ["headDim", "discretization", "state", "residual"]);
  const { headDim = 1, discretization = "zoh", state, residual } = options;
  const p = parameters;
  if (state !== undefined) checkConfig(`${who} state`, state, ["shift", "outer"]);
  expectInteger(who, "headDim", headDim, 1);
  expectOneOf(who, "discretization", discretization, ["zoh", "bilinear"]);
  for (const [name, t] of Object.entries({ u, ...p, ...state, residual }))
    if (t !== undefined) expectDType(who, name, t, "f32");
  const { batch, seq, dim } = expectShape(who, "u", u, ["batch", "seq", "dim"]) as {
    batch: number;
    seq: number;
    dim: number;
  };
  expectTokens(who, seq, "u");
  if (dim % headDim !== 0) throw new ConfigError(who, `headDim is ${headDim}; it must divide dim, ${dim}`);
  const heads = dim / headDim;
  const names: Record<string, number> = {};
  for (const part of ["Q", "K", "V", "O"] as const) {
    expectShape(who, `w${part}`, p[`w${part}`], [dim, dim]);
    expectShape(who, `b${part}`, p[`b${part}`], [dim]);
  }
  expectShape(who, "shiftKernel", p.shiftKernel, [dim, "taps"], names);
  expectShape(who, "shiftSkip", p.shiftSkip, [dim]);
  expectShape(who, "logDt", p.logDt, [heads]);
  expectShape(who, "logAReal", p.logAReal, [heads, "states"], names);
  expectShape(who, "aImag", p.aImag, [heads, "states"], names);
  expectShape(who, "c", p.c, [heads, "states", 2], names);
  expectShape(who, "dSkip", p.dSkip, [heads]);
  const { taps, states } = names as { taps: number; states: number };
  if (residual) expectShape(who, "residual", residual, u.shape);
  if (state) {
    expectShape(who, "state.shift", state.shift, [batch, taps - 1, dim]);
    expectShape(who, "state.outer", state.outer, [headDim * headDim * batch, heads, states, 2]);
  }
  return u.gpu.scope(() => {
    const model: ChannelModel = {
      pole: poles(p.logAReal, p.aImag, p.logDt, { rule: discretization, negative: true }),
      c: p.c,
    };
    const key = linear(u, p.wK, p.bK);
    const shift = state
      ? continuedConvolution(key, p.shiftKernel, state.shift)
      : { y: longConvolution(key, p.shiftKernel), inputs: undefined };
    /** [headDim, batch, seq, heads] */
    const byComponent = (x: Tensor): Tensor =>
      headDim === 1
        ? x.reshape([1, batch, seq, heads])
        : transpose(x.reshape([batch, seq, heads, headDim]), [3, 0, 1, 2]);
    const q = byComponent(linear(u, p.wQ, p.bQ));
    const k = byComponent(shifted(shift.y, key, p.shiftSkip));
    const v = byComponent(linear(u, p.wV, p.bV));
    let o: Tensor | undefined;
    let outer: Tensor | undefined;
    if (state)
      o = throughModel([q, k, v], p.dSkip, (kv) => {
        const next = advance(kv, model, state.outer);
        outer = next.state;
        return next.y;
      });
    else {
      const kernel = powerSums(model.c, model.pole, seq);
      const row = (x: Tensor, i: number): Tensor =>
        headDim === 1 ? x : slice(x, { axis: 0, start: i, end: i + 1 });
      for (let i = 0; i < headDim; i++) {
        const inputs = [row(q, i), row(k, i), v, p.dSkip, kernel] as const;
        const of = (...[qi, ki, vs, d, taken]: Tensor[]): Tensor[] => [
          throughModel([qi!, ki!, vs!], d!, (kv) => longConvolution(kv, taken!)),
        ];
        const [part] = headDim === 1 ? of(...inputs) : checkpoint(of, inputs);
        o = o ? add(o, part!) : part!;
      }
    }
    const joined = headDim === 1 ? o! : transpose(o!, [1, 2, 0, 3]);
    const out = linear(joined.reshape([batch, seq, dim]), p.wO, p.bO, { residual });
    return state ? { out, state: { shift: shift.inputs!, outer: outer! } } : { out };
  });
}

const LAYER = schema("H3", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  headDim: integer("Components of a head; it divides dim.", { min: 1, default: 1 }),
  stateSize: integer("States of a head's model that are kept, one of each pair of conjugates.", {
    min: 1,
    default: 32,
  }),
  shiftTaps: integer("Taps of the shift.", { min: 1, default: 4 }),
  discretization: oneOf("How A becomes a step's pole.", ["zoh", "bilinear"], { default: "zoh" }),
  ...STEPS,
});
export type H3Config = Config<typeof LAYER>;

/**
 * `h3` as a layer: parameters q_proj, k_proj, v_proj, out_proj [dim, dim] (`.weight` and `.bias`), shift_kernel
 * [dim, shiftTaps], shift_skip [dim], and of the heads' models log_dt, log_A_real, A_imag, C, D.
 */
export class H3 extends SequenceMixer<typeof LAYER> {
  static readonly schema = LAYER;

  /** Names, shapes and initial values of the parameters; the models start as S4D-Lin. @throws ConfigError */
  static plan(config: H3Config): ParameterPlan {
    const { dim, headDim, shiftTaps, ...rest } = LAYER.read(config);
    if (dim % headDim !== 0)
      throw new ConfigError(LAYER.name, `headDim is ${headDim}; it must divide dim, ${dim}`);
    const projection = (name: string, role?: "output" | "value"): ParameterPlan => ({
      [`${name}.weight`]: matrix(dim, dim, role),
      [`${name}.bias`]: zeros(dim),
    });
    return {
      ...projection("q_proj"),
      ...projection("k_proj"),
      ...projection("v_proj", "value"),
      ...projection("out_proj", "output"),
      shift_kernel: { shape: [dim, shiftTaps], init: { std: shiftTaps ** -0.5 } },
      shift_skip: { shape: [dim], init: { std: 1 } },
      ...s4dPlan(LAYER.name, dim / headDim, rest),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: H3Config, parameters: Parameters) {
    super(LAYER, config, H3.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { dim, headDim, stateSize, shiftTaps } = this.config;
    return {
      shift: { shape: [batch, shiftTaps - 1, dim] },
      outer: { shape: [headDim * headDim * batch, dim / headDim, stateSize, 2] },
    };
  }

  protected run(x: Tensor, { shift, outer, residual }: Given): { out: Tensor } & Partial<H3State> {
    const { headDim, discretization } = this.config;
    const p = this.weights;
    const { out, state } = h3(
      x,
      {
        wQ: p["q_proj.weight"]!,
        bQ: p["q_proj.bias"]!,
        wK: p["k_proj.weight"]!,
        bK: p["k_proj.bias"]!,
        wV: p["v_proj.weight"]!,
        bV: p["v_proj.bias"]!,
        wO: p["out_proj.weight"]!,
        bO: p["out_proj.bias"]!,
        shiftKernel: p["shift_kernel"]!,
        shiftSkip: p["shift_skip"]!,
        logDt: p["log_dt"]!,
        logAReal: p["log_A_real"]!,
        aImag: p["A_imag"]!,
        c: p["C"]!,
        dSkip: p["D"]!,
      },
      { headDim, discretization, residual, state: shift && outer && { shift, outer } },
    );
    return { out, ...state };
  }
}
