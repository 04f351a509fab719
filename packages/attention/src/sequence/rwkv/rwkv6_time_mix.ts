import {
  ConfigError,
  e,
  elementwise,
  expectShape,
  integer,
  linear,
  matmul,
  matrix,
  mean,
  number,
  ones,
  randomUniform,
  schema,
  slice,
  square,
  sub,
  transpose,
  zeros,
  tensor,
  type Config,
  type Draw,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { expectFloat32 } from "../decay/decayed_attention.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import { expectInput, RESIDUAL, type StatePlan } from "../state/sequence_state.js";
import { lastToken, shifted } from "../state/token_shift.js";
import { rwkv6 } from "./rwkv6.js";

const TIME_MIX = schema("Rwkv6TimeMix", {
  dim: integer("Width of x and of the output, a multiple of numHeads.", { min: 1 }),
  numHeads: integer("Heads of the recurrence.", { min: 1 }),
  normEps: number("Added to the variance in the norm of each head's output.", { min: 0, default: 64e-5 }),
  mixRank: integer("Rank of what x adds to each of the five mixes.", { min: 1, default: 32 }),
  decayRank: integer("Rank of what x adds to the decay.", { min: 1, default: 64 }),
});
export type Rwkv6TimeMixConfig = Config<typeof TIME_MIX>;

const CALL = schema(TIME_MIX.name, {
  state: tensor("S before the first token, [batch, heads, headDim, headDim].", { defaultDoc: "zeros" }),
  prev: tensor("The token before x, [batch, dim].", { defaultDoc: "zeros" }),
  ...RESIDUAL,
});

/** What a time mix carries: S [batch, numHeads, headDim, headDim], and the last token of x [batch, dim]. */
export interface Rwkv6TimeMixStates {
  readonly state: Tensor;
  readonly prev: Tensor;
}

/** The mixes in the order of time_maa_w2. */
const MIXES = ["w", "k", "v", "r", "g"] as const;

const mixed = elementwise("tokenShift", ["x", "before", "mix"], (x, before, m) =>
  e.add(x, e.mul(e.sub(before, x), m)),
);
const mixedMore = elementwise("tokenShiftByToken", ["x", "before", "mix", "more"], (x, before, m, more) =>
  e.add(x, e.mul(e.sub(before, x), e.add(m, more))),
);
const normed = elementwise(
  "rwkv6HeadNormGate",
  ["o", "variance", "eps", "weight", "bias", "g"],
  (o, variance, eps, weight, bias, g) =>
    e.mul(e.add(e.mul(e.mul(o, e.rsqrt(e.add(variance, eps))), weight), bias), e.silu(g)),
);

/** f of each of n channels. */
const channels =
  (f: (i: number, n: number) => number): Draw =>
  (gpu, shape) => {
    const n = shape.reduce((a, b) => a * b, 1);
    return gpu.tensor(
      Float32Array.from({ length: n }, (_, i) => f(i, n)),
      shape,
    );
  };
const uniform =
  (bound: number): Draw =>
  (gpu, shape, random) =>
    randomUniform(gpu, shape, { ...random, low: -bound, high: bound });

/** Share of the way from the first to the last channel. */
const share = (i: number, n: number): number => i / Math.max(1, n - 1);

/**
 * RWKV-6's time mixing. With xx = x_{t-1} - x_t, the mixes depend on the token: l = tanh((x + xx maa_x) A), cut into five,
 * x_j = x + xx (maa_j + l_j B_j); r, k, v = x_r W_r^T, x_k W_k^T, x_v W_v^T, g = silu(x_g W_g^T), and the decay
 * w = time_decay + tanh(x_w D_1) D_2; out = (norm_head(rwkv6(r, k, v, w)) g) W_o^T, the norm with weight and bias.
 *
 * x [batch, tokens, dim], f32. Parameters as in checkpoints: time_maa_x, _w, _k, _v, _r, _g [dim], time_maa_w1
 * [dim, 5 mixRank] (A), time_maa_w2 [5, mixRank, dim] (B), time_decay [dim], time_decay_w1 [dim, decayRank], time_decay_w2
 * [decayRank, dim], time_faaaa [numHeads, headDim] (the bonus), receptance, key, value, gate, output (`.weight` [dim, dim]),
 * ln_x (`.weight`, `.bias` [dim]). Peng et al. 2024, arXiv:2404.05892, section 4.
 */
export class Rwkv6TimeMix extends SequenceMixer<typeof TIME_MIX> {
  static readonly schema = TIME_MIX;

  /** Names, shapes and initial values of the parameters: those of RWKV-6's first layer. @throws ConfigError */
  static plan(config: Rwkv6TimeMixConfig): ParameterPlan {
    const { dim, numHeads, mixRank, decayRank } = TIME_MIX.read(config);
    if (dim % numHeads !== 0)
      throw new ConfigError(
        TIME_MIX.name,
        `dim is ${dim}, numHeads ${numHeads}; the first must be a multiple of the second`,
      );
    const falling = channels((i, n) => 1 - i / n);
    return {
      time_maa_x: { shape: [dim], init: falling },
      ...Object.fromEntries(MIXES.map((name) => [`time_maa_${name}`, { shape: [dim], init: falling }])),
      time_maa_w1: { shape: [dim, 5 * mixRank], init: uniform(1e-4) },
      time_maa_w2: { shape: [5, mixRank, dim], init: uniform(1e-2) },
      time_decay: { shape: [dim], init: channels((i, n) => -6 + 5 * share(i, n) ** 0.7) },
      time_decay_w1: { shape: [dim, decayRank], init: uniform(1e-4) },
      time_decay_w2: { shape: [decayRank, dim], init: uniform(1e-2) },
      time_faaaa: {
        shape: [numHeads, dim / numHeads],
        init: channels((i, n) => 0.5 * (1 - share(i, n)) + 0.1 * (((i + 1) % 3) - 1)),
      },
      "receptance.weight": matrix(dim, dim),
      "key.weight": matrix(dim, dim),
      "value.weight": matrix(dim, dim),
      "gate.weight": matrix(dim, dim),
      "output.weight": matrix(dim, dim, "output"),
      "ln_x.weight": ones(dim),
      "ln_x.bias": zeros(dim),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: Rwkv6TimeMixConfig, parameters: Parameters) {
    super(TIME_MIX, config, Rwkv6TimeMix.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { dim, numHeads } = this.config;
    const headDim = dim / numHeads;
    return {
      state: { shape: [batch, numHeads, headDim, headDim] },
      prev: { shape: [batch, dim] },
    };
  }

  protected run(x: Tensor, given: Given): ReturnType<Rwkv6TimeMix["outputs"]> {
    return this.outputs(x, given);
  }

  /**
   * The output and the states after it, from the states before it (those of an empty text by default).
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  outputs(x: Tensor, options: Config<typeof CALL> = {}): Rwkv6TimeMixStates & { readonly out: Tensor } {
    const who = TIME_MIX.name;
    const { state, prev, residual } = CALL.read(options);
    const { dim, numHeads, normEps, mixRank } = this.config;
    const { batch, tokens } = expectInput(who, x, dim, residual);
    expectFloat32(who, { prev, state });
    if (prev) expectShape(who, "prev", prev, [batch, dim]);
    const headDim = dim / numHeads;
    if (state) expectShape(who, "state", state, [batch, numHeads, headDim, headDim]);
    const p = this.weights;
    const rows = batch * tokens;
    return x.gpu.scope(() => {
      const before = shifted(x, prev);
      const low = matmul(mixed(x, before, p["time_maa_x"]!), p["time_maa_w1"]!, { activation: "tanh" });
      const more = matmul(transpose(low.reshape([rows, 5, mixRank]), [1, 0, 2]), p["time_maa_w2"]!);
      const [xw, xk, xv, xr, xg] = MIXES.map((name, i) =>
        mixedMore(
          x,
          before,
          p[`time_maa_${name}`]!,
          slice(more, { axis: 0, start: i, end: i + 1 }).reshape(x.shape),
        ),
      ) as [Tensor, Tensor, Tensor, Tensor, Tensor];
      const heads = [batch, tokens, numHeads, headDim];
      const project = (input: Tensor, name: string): Tensor =>
        linear(input, p[`${name}.weight`]!).reshape(heads);
      const w = matmul(matmul(xw, p["time_decay_w1"]!, { activation: "tanh" }), p["time_decay_w2"]!, {
        bias: p["time_decay"]!,
      });
      const { out: o, state: next } = rwkv6(
        project(xr, "receptance"),
        project(xk, "key"),
        project(xv, "value"),
        w.reshape(heads),
        p["time_faaaa"]!,
        { state, layout: "bshd" },
      );
      const last = { axes: -1, keepDims: true };
      const centered = sub(o, mean(o, last));
      const perHead = (name: string): Tensor => p[name]!.reshape([numHeads, headDim]);
      const y = normed(
        centered,
        mean(square(centered), last),
        normEps,
        perHead("ln_x.weight"),
        perHead("ln_x.bias"),
        project(xg, "gate"),
      );
      return {
        out: linear(y.reshape(x.shape), p["output.weight"]!, undefined, { residual }),
        state: next,
        prev: lastToken(x),
      };
    });
  }
}
