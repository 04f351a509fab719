import {
  add,
  e,
  elementwise,
  expectShape,
  integer,
  linear,
  matrix,
  schema,
  tensor,
  type Config,
  type Draw,
  type Field,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { expectFloat32 } from "../decay/decayed_attention.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import { expectInput, RESIDUAL, type StatePlan } from "../state/sequence_state.js";
import { lastToken, shifted } from "../state/token_shift.js";
import { wkv, type WkvState } from "./wkv.js";

const TIME_MIX = schema("Rwkv4TimeMix", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  attentionDim: integer("Width of r, k and v.", { min: 1, defaultDoc: "dim" }),
});
const CHANNEL_MIX = schema("Rwkv4ChannelMix", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  ffnDim: integer("Width of k.", { min: 1, defaultDoc: "4 dim" }),
});
export type Rwkv4TimeMixConfig = Config<typeof TIME_MIX>;
export type Rwkv4ChannelMixConfig = Config<typeof CHANNEL_MIX>;

/** What a channel mix carries: the last token of x, [batch, dim]. */
export interface Rwkv4ShiftState {
  readonly prev: Tensor;
}

/** What a time mix carries; no gradient flows through the sums. */
export interface Rwkv4TimeMixStates extends Rwkv4ShiftState, WkvState {}

const mix = elementwise("tokenShiftMix", ["x", "before", "mix"], (x, before, m) =>
  e.add(e.mul(x, m), e.mul(before, e.sub(1, m))),
);
const gated = elementwise("sigmoid(r) y", ["r", "y"], (r, y) => e.mul(e.sigmoid(r), y));

/** (i / n)^power for channel i. */
const ramp =
  (power: number): Draw =>
  (gpu, shape) => {
    const n = shape.at(-1)!;
    return gpu.tensor(
      Float32Array.from({ length: n }, (_, i) => (i / n) ** power),
      shape,
    );
  };

/** From -5 to 3: channels that remember long, and channels that forget at once. */
const decays: Draw = (gpu, [n = 0]) =>
  gpu.tensor(
    Float32Array.from({ length: n }, (_, i) => -5 + 8 * (i / Math.max(1, n - 1)) ** 0.7),
    [n],
  );

/** ln 0.3, and a zigzag of 0.5 around it. */
const bonuses: Draw = (gpu, [n = 0]) =>
  gpu.tensor(
    Float32Array.from({ length: n }, (_, i) => Math.log(0.3) + 0.5 * (((i + 1) % 3) - 1)),
    [n],
  );

const PREV = { prev: tensor("The token before x, [batch, dim].", { defaultDoc: "zeros" }) };
const sums = (what: string): Field<Tensor, "optional"> =>
  tensor(`${what} of wkv before the first token, [batch, attentionDim].`, {
    defaultDoc: "those of an empty text",
  });
const TIME_MIX_CALL = schema(TIME_MIX.name, {
  ...PREV,
  ...{ num: sums("Numerator"), den: sums("Denominator"), max: sums("Largest exponent") },
  ...RESIDUAL,
});
const CHANNEL_MIX_CALL = schema(CHANNEL_MIX.name, { ...PREV, ...RESIDUAL });

/** Check a call of either layer. */
function checkCall(
  who: string,
  x: Tensor,
  dim: number,
  { prev, residual }: { readonly prev?: Tensor | undefined; readonly residual?: Tensor | undefined },
): void {
  const { batch } = expectInput(who, x, dim, residual);
  expectFloat32(who, { prev });
  if (prev) expectShape(who, "prev", prev, [batch, dim]);
}

/**
 * RWKV-4's time mixing: with x'_j = x_t mix_j + x_{t-1} (1 - mix_j), r, k, v = x'_r W_r^T, x'_k W_k^T, x'_v W_v^T;
 * out = (sigmoid(r) wkv(k, v)) W_o^T, where wkv is a mean of the values so far that fades by e^-w a token
 * (w = e^time_decay) and gives the current one the bonus time_first.
 *
 * x [batch, seq, dim], f32. Parameters time_mix_receptance, time_mix_key, time_mix_value [1, 1, dim], time_decay, time_first [attentionDim],
 * receptance, key, value, output (`.weight` [out, in]).
 * Peng et al. 2023, arXiv:2305.13048, section 3.1.
 */
export class Rwkv4TimeMix extends SequenceMixer<typeof TIME_MIX> {
  static readonly schema = TIME_MIX;

  /** Names, shapes and initial values of the parameters: those of RWKV-4's first layer. @throws ConfigError */
  static plan(config: Rwkv4TimeMixConfig): ParameterPlan {
    const { dim, attentionDim = dim } = TIME_MIX.read(config);
    return {
      time_mix_receptance: { shape: [1, 1, dim], init: ramp(0.5) },
      time_mix_key: { shape: [1, 1, dim], init: ramp(1) },
      time_mix_value: { shape: [1, 1, dim], init: ramp(1) },
      time_decay: { shape: [attentionDim], init: decays },
      time_first: { shape: [attentionDim], init: bonuses },
      "receptance.weight": matrix(attentionDim, dim),
      "key.weight": matrix(attentionDim, dim),
      "value.weight": matrix(attentionDim, dim),
      "output.weight": matrix(dim, attentionDim, "output"),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: Rwkv4TimeMixConfig, parameters: Parameters) {
    super(TIME_MIX, config, Rwkv4TimeMix.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { dim, attentionDim = dim } = this.config;
    return {
      prev: { shape: [batch, dim] },
      num: { shape: [batch, attentionDim] },
      den: { shape: [batch, attentionDim] },
      max: { shape: [batch, attentionDim], initial: -1e38 },
    };
  }

  protected run(x: Tensor, given: Given): ReturnType<Rwkv4TimeMix["outputs"]> {
    return this.outputs(x, given);
  }

  /**
   * The output and the states after it, from the states before it (those of an empty text by default).
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  outputs(
    x: Tensor,
    options: Config<typeof TIME_MIX_CALL> = {},
  ): Rwkv4TimeMixStates & { readonly out: Tensor } {
    const who = TIME_MIX.name;
    const { prev, residual, ...sums } = TIME_MIX_CALL.read(options);
    checkCall(who, x, this.config.dim, { prev, residual });
    const p = this.weights;
    return x.gpu.scope(() => {
      const before = shifted(x, prev);
      const project = (name: string): Tensor =>
        linear(mix(x, before, p[`time_mix_${name}`]!), p[`${name}.weight`]!);
      const [k, v] = [project("key"), project("value")];
      const { out: y, ...next } = wkv(k, v, p["time_decay"]!, p["time_first"]!, sums);
      const out = linear(gated(project("receptance"), y), p["output.weight"]!, undefined, { residual });
      return { out, prev: lastToken(x), ...next };
    });
  }
}

/**
 * RWKV-4's channel mixing: with x'_j = x_t mix_j + x_{t-1} (1 - mix_j), out = sigmoid(x'_r W_r^T)
 * (relu(x'_k W_k^T)^2 W_v^T).
 *
 * x [batch, seq, dim], f32. Parameters time_mix_key, time_mix_receptance [1, 1, dim], key.weight [ffnDim, dim], receptance.weight
 * [dim, dim], value.weight [dim, ffnDim]. Peng et al. 2023, arXiv:2305.13048, section 3.1.
 */
export class Rwkv4ChannelMix extends SequenceMixer<typeof CHANNEL_MIX> {
  static readonly schema = CHANNEL_MIX;

  /** Names, shapes and initial values of the parameters: those of RWKV-4's first layer. @throws ConfigError */
  static plan(config: Rwkv4ChannelMixConfig): ParameterPlan {
    const { dim, ffnDim = 4 * dim } = CHANNEL_MIX.read(config);
    return {
      time_mix_key: { shape: [1, 1, dim], init: ramp(1) },
      time_mix_receptance: { shape: [1, 1, dim], init: ramp(1) },
      "key.weight": matrix(ffnDim, dim, "value"),
      "receptance.weight": matrix(dim, dim),
      "value.weight": matrix(dim, ffnDim, "output"),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: Rwkv4ChannelMixConfig, parameters: Parameters) {
    super(CHANNEL_MIX, config, Rwkv4ChannelMix.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    return { prev: { shape: [batch, this.config.dim] } };
  }

  protected run(x: Tensor, given: Given): ReturnType<Rwkv4ChannelMix["outputs"]> {
    return this.outputs(x, given);
  }

  /** The output and the last token, from the token before x (zero by default). @throws ShapeError, DTypeError, ConfigError */
  outputs(
    x: Tensor,
    options: Config<typeof CHANNEL_MIX_CALL> = {},
  ): Rwkv4ShiftState & { readonly out: Tensor } {
    const who = CHANNEL_MIX.name;
    const { prev, residual } = CHANNEL_MIX_CALL.read(options);
    checkCall(who, x, this.config.dim, { prev, residual });
    const p = this.weights;
    return x.gpu.scope(() => {
      const before = shifted(x, prev);
      const k = linear(mix(x, before, p["time_mix_key"]!), p["key.weight"]!, undefined, {
        activation: "squaredRelu",
      });
      const r = linear(mix(x, before, p["time_mix_receptance"]!), p["receptance.weight"]!);
      const y = gated(r, linear(k, p["value.weight"]!));
      return { out: residual ? add(y, residual) : y, prev: lastToken(x) };
    });
  }
}
