import {
  add,
  boolean,
  cast,
  causalConv1d,
  concat,
  ConfigError,
  e,
  elementwise,
  exp,
  expectDType,
  expectShape,
  integer,
  linear,
  log,
  matrix,
  mul,
  randomUniform,
  schema,
  slice,
  sub,
  tensor,
  zeros,
  type Config,
  type ConfigOf,
  type Draw,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { expectFloat32 } from "../decay/decayed_attention.js";
import { rgLru } from "./rg_lru.js";
import { tapsOf } from "../state/parameters.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import { expectInput, RESIDUAL, type SequenceOptions, type StatePlan } from "../state/sequence_state.js";

const GRIFFIN = schema("GriffinBlock", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  lruWidth: integer("Width of the recurrence.", { min: 1, defaultDoc: "dim" }),
  numBlocks: integer("Blocks of the gates' weights; it divides lruWidth.", { min: 1, default: 1 }),
  convSize: integer("Taps of the convolution.", { min: 1, default: 4 }),
  wholeFirst: boolean(
    "The first token of a text enters the state whole, as in the published models; in the paper by (1 - a^2)^(1/2) as all others.",
    { default: false },
  ),
});
export type GriffinConfig = Config<typeof GRIFFIN>;

const SEGMENTS = {
  segmentPos: tensor(
    "i32 [batch, seq]: position of each token in its document; neither state nor convolution crosses a 0.",
    { optional: true },
  ),
};
const CALL = schema(GRIFFIN.name, {
  convState: tensor("The convolution's last inputs, [batch, convSize - 1, lruWidth].", {
    defaultDoc: "zeros",
  }),
  state: tensor("The state before the first token, [batch, lruWidth].", { defaultDoc: "zeros" }),
  position: tensor("With wholeFirst: tokens before the first one, [batch], f32.", { defaultDoc: "zeros" }),
  ...SEGMENTS,
  ...RESIDUAL,
});

/** The states before and after a call, as tensors with gradients. */
export interface GriffinStates {
  /** [batch, convSize - 1, lruWidth]: the convolution's last inputs. */
  readonly convState: Tensor;
  /** [batch, lruWidth] */
  readonly state: Tensor;
  /** [batch]: with wholeFirst, how many tokens the state has seen. */
  readonly position?: Tensor;
}

export type GriffinOptions = SequenceOptions & ConfigOf<typeof SEGMENTS>;

/** softplus(recurrent_param) = -ln |a|, |a|^2 uniform between 0.9^2 and 0.999^2. */
const ring: Draw = (gpu, shape, random) => {
  const square = randomUniform(gpu, shape, { ...random, low: 0.9 ** 2, high: 0.999 ** 2 });
  return log(sub(exp(mul(log(square), -0.5)), 1));
};

const addTap = elementwise(
  "segmentTap",
  ["sum", "x", "weight", "position", "age"],
  (sum, x, weight, position, age) => e.add(sum, e.select(e.le(age, position), e.mul(x, weight), 0)),
);

/**
 * Griffin's recurrent block: out = (rgLru(conv(x W_x^T + b_x)) * geluTanh(x W_y^T + b_y)) W_out^T + b_out. No norm and
 * no residual of its own; Griffin puts two of them before each layer of local attention.
 *
 * x [batch, seq, dim], f32. Parameters linear_x, linear_y, linear_out (`.weight` [out, in], `.bias`), conv_1d.weight
 * [lruWidth, 1, convSize], conv_1d.bias, rg_lru.input_gate_weight and rg_lru.recurrent_gate_weight [blocks, block, block],
 * input index first, rg_lru.input_gate_bias and rg_lru.recurrent_gate_bias [blocks, block], rg_lru.recurrent_param
 * [lruWidth]: the names of Hugging Face's RecurrentGemma.
 * De et al. 2024, arXiv:2402.19427, section 2.
 */
export class GriffinBlock extends SequenceMixer<typeof GRIFFIN> {
  static readonly schema = GRIFFIN;

  /**
   * Names, shapes and initial values of the parameters: |a| between 0.9 and 0.999, normal matrices.
   *
   * @throws ConfigError
   */
  static plan(config: GriffinConfig): ParameterPlan {
    const { dim, lruWidth, numBlocks, convSize } = sizes(config);
    const block = lruWidth / numBlocks;
    const gate = { shape: [numBlocks, block, block], init: { std: block ** -0.5 } };
    const bias = { shape: [numBlocks, block], init: 0 };
    return {
      "linear_x.weight": matrix(lruWidth, dim),
      "linear_x.bias": zeros(lruWidth),
      "linear_y.weight": matrix(lruWidth, dim),
      "linear_y.bias": zeros(lruWidth),
      "conv_1d.weight": { shape: [lruWidth, 1, convSize], init: { std: (0.01 / convSize) ** 0.5 } },
      "conv_1d.bias": zeros(lruWidth),
      "rg_lru.input_gate_weight": gate,
      "rg_lru.input_gate_bias": bias,
      "rg_lru.recurrent_gate_weight": gate,
      "rg_lru.recurrent_gate_bias": bias,
      "rg_lru.recurrent_param": { shape: [lruWidth], init: ring },
      "linear_out.weight": matrix(dim, lruWidth, "output"),
      "linear_out.bias": zeros(dim),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: GriffinConfig, parameters: Parameters) {
    super(GRIFFIN, config, GriffinBlock.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { lruWidth, convSize, wholeFirst } = sizes(this.config);
    return {
      convState: { shape: [batch, convSize - 1, lruWidth] },
      state: { shape: [batch, lruWidth] },
      ...(wholeFirst ? { position: { shape: [batch] } } : {}),
    };
  }

  override forward(x: Tensor, options: GriffinOptions = {}): Tensor {
    return this.carry(x, options, ["segmentPos"]);
  }

  protected run(x: Tensor, given: Given): ReturnType<GriffinBlock["outputs"]> {
    return this.outputs(x, given);
  }

  /**
   * The output and the states after it, from the states before it (zero by default).
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  outputs(x: Tensor, options: Config<typeof CALL> = {}): GriffinStates & { readonly out: Tensor } {
    const who = GRIFFIN.name;
    const { convState, state, position, residual, segmentPos } = CALL.read(options);
    const { dim, lruWidth, convSize, wholeFirst } = sizes(this.config);
    const { batch, tokens } = expectInput(who, x, dim, residual);
    expectFloat32(who, { convState, state, position });
    if (state) expectShape(who, "state", state, [batch, lruWidth]);
    if (convState) expectShape(who, "convState", convState, [batch, convSize - 1, lruWidth]);
    if (position) expectShape(who, "position", position, [batch]);
    if (wholeFirst !== (position !== undefined) && state !== undefined)
      throw new ConfigError(
        who,
        `wholeFirst is ${wholeFirst}, position is ${position ? "given" : "missing"}; with wholeFirst a state goes with its position`,
      );
    if (segmentPos !== undefined) {
      expectShape(who, "segmentPos", segmentPos, [batch, tokens]);
      expectDType(who, "segmentPos", segmentPos, "i32");
    }
    const p = this.weights;
    return x.gpu.scope(() => {
      const y = linear(x, p["linear_y.weight"]!, p["linear_y.bias"], { activation: "geluTanh" });
      const inner = linear(x, p["linear_x.weight"]!, p["linear_x.bias"]);
      const [weight, bias] = [tapsOf(p["conv_1d.weight"]!), p["conv_1d.bias"]!];
      const conv = segmentPos
        ? segmentConv(inner, weight, { bias, state: convState, segmentPos })
        : causalConv1d(inner, weight, { bias, state: convState });
      const gates = {
        wInput: p["rg_lru.input_gate_weight"]!,
        bInput: p["rg_lru.input_gate_bias"]!,
        wRec: p["rg_lru.recurrent_gate_weight"]!,
        bRec: p["rg_lru.recurrent_gate_bias"]!,
        aParam: p["rg_lru.recurrent_param"]!,
      };
      const before = position ?? x.gpu.zeros([batch]);
      const places = segmentPos ?? (wholeFirst ? positions(before, tokens) : undefined);
      const z = rgLru(conv.out, gates, { state, segmentPos: places });
      const out = linear(mul(z.out, y), p["linear_out.weight"]!, p["linear_out.bias"], { residual });
      const seen = wholeFirst ? { position: add(before, tokens) } : {};
      return { out, convState: conv.state, state: z.state, ...seen };
    });
  }
}

/** i32 [batch, tokens]: the positions of tokens that follow `before` [batch] others. */
function positions(before: Tensor, tokens: number): Tensor {
  const steps = before.gpu.tensor(
    Float32Array.from({ length: tokens }, (_, t) => t),
    [1, tokens],
  );
  return cast(add(before.reshape([before.size, 1]), steps), "i32");
}

/** `causalConv1d` whose taps do not reach across the beginning of a document. */
function segmentConv(
  x: Tensor,
  weight: Tensor,
  options: { readonly bias: Tensor; readonly state: Tensor | undefined; readonly segmentPos: Tensor },
): { out: Tensor; state: Tensor } {
  const [batch, rows, dim] = x.shape as [number, number, number];
  const taps = weight.shape[1]!;
  const before = options.state ?? x.gpu.zeros([batch, taps - 1, dim]);
  const all = taps > 1 ? concat([before, x], 1) : x;
  const position = options.segmentPos.reshape([batch, rows, 1]);
  let out = options.bias;
  for (let tap = 0; tap < taps; tap++) {
    const shifted = slice(all, { axis: 1, start: tap, end: tap + rows });
    const factor = slice(weight, { axis: 1, start: tap, end: tap + 1 }).reshape([dim]);
    out = addTap(out, shifted, factor, position, taps - 1 - tap);
  }
  return { out, state: slice(all, { axis: 1, start: rows }) };
}

/** The configuration with nothing left out. @throws ConfigError */
function sizes(config: GriffinConfig) {
  const read = GRIFFIN.read(config);
  const { dim, lruWidth = dim, numBlocks } = read;
  if (lruWidth % numBlocks !== 0)
    throw new ConfigError(
      GRIFFIN.name,
      `lruWidth is ${lruWidth}, numBlocks ${numBlocks}; the second must divide the first`,
    );
  return { ...read, lruWidth };
}
