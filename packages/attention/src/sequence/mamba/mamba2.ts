import {
  boolean,
  causalConv1d,
  ConfigError,
  e,
  elementwise,
  expectShape,
  integer,
  linear,
  matrix,
  number,
  oneOf,
  ones,
  schema,
  silu,
  split,
  tensor,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { plainRmsNorm } from "../../block/parts.js";
import { chunkOf, expectFloat32, FORMS } from "../decay/decayed_attention.js";
import { convolution, logDecays, negativeExp, stepBias, tapsOf } from "../state/parameters.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import { expectInput, RESIDUAL, type StatePlan } from "../state/sequence_state.js";
import type { MambaStates } from "./mamba.js";
import { DT_LIMIT, ssd } from "./ssd.js";

const MAMBA2 = schema("Mamba2Block", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  numHeads: integer("Heads of the recurrence.", { min: 1 }),
  headDim: integer("Width of a head.", { min: 1, defaultDoc: "2 dim / numHeads" }),
  stateSize: integer("States of each of a head's components.", { min: 1, default: 64 }),
  numGroups: integer("Groups of heads that share b and c; it divides numHeads.", { min: 1, default: 1 }),
  normGroups: integer(
    "Equal parts of numHeads headDim, each normed by its own mean square: 1 in transformers, numGroups in the authors' code and llama.cpp.",
    { min: 1, default: 1 },
  ),
  normBeforeGate: boolean("The norm comes before the gate.", { default: false }),
  normEps: number("Added to the mean square.", { min: 0, default: 1e-5 }),
  convSize: integer("Taps of the convolution.", { min: 1, default: 4 }),
  dtLimit: DT_LIMIT,
  bias: boolean("Biases of the input and output projections.", { default: false }),
  convBias: boolean("A bias of the convolution.", { default: true }),
  form: oneOf("How a sequence is gone through; the forms are equal up to rounding.", FORMS, {
    default: "chunkwise",
  }),
  chunkSize: integer('Tokens of a chunk, for the form "chunkwise".', { min: 1, defaultDoc: "64" }),
});
export type Mamba2Config = Config<typeof MAMBA2>;

const gate = elementwise("y silu(z)", ["y", "z"], (y, z) => e.mul(y, e.silu(z)));

const CALL = schema(MAMBA2.name, {
  convState: tensor("The convolution's last inputs, [batch, convSize - 1, Di + 2 G N].", {
    defaultDoc: "zeros",
  }),
  ssmState: tensor("The state before the first token, [batch, heads, headDim, stateSize].", {
    defaultDoc: "zeros",
  }),
  ...RESIDUAL,
});

/**
 * Mamba-2's block: (z, xbc, dt) = split(u W_in^T), (x, b, c) = split(silu(conv(xbc))), y = ssd(x, dt, b, c) with
 * a = -e^A_log, dt = softplus(dt + dt_bias) in `dtLimit`, the skip D and heads of headDim; out = rms(y silu(z)) W_out^T.
 * No residual of its own.
 *
 * u [batch, seq, dim], f32. Parameters in_proj.weight [2 Di + 2 G N + H, dim], out_proj.weight [dim, Di], conv1d.weight
 * [Di + 2 G N, 1, convSize], conv1d.bias, dt_bias, A_log, D [H], norm.weight [Di], with Di = H headDim; with `bias`
 * in_proj.bias and out_proj.bias.
 * Dao and Gu 2024, arXiv:2405.21060, section 7.
 */
export class Mamba2Block extends SequenceMixer<typeof MAMBA2> {
  static readonly schema = MAMBA2;

  /**
   * Names, shapes and initial values of the parameters: A between -1 and -16, steps of 0.001 to 0.1, normal matrices.
   *
   * @throws ConfigError
   */
  static plan(config: Mamba2Config): ParameterPlan {
    const { dim, numHeads, innerDim, convDim, convSize, bias, convBias } = sizes(config);
    return {
      "in_proj.weight": matrix(innerDim + convDim + numHeads, dim),
      ...(bias ? { "in_proj.bias": zeros(innerDim + convDim + numHeads) } : {}),
      ...convolution("conv1d", convDim, convSize, convBias),
      dt_bias: { shape: [numHeads], init: stepBias },
      A_log: { shape: [numHeads], init: logDecays },
      D: ones(numHeads),
      "norm.weight": ones(innerDim),
      "out_proj.weight": matrix(dim, innerDim, "output"),
      ...(bias ? { "out_proj.bias": zeros(dim) } : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: Mamba2Config, parameters: Parameters) {
    super(MAMBA2, config, Mamba2Block.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { numHeads, headDim, stateSize, convDim, convSize } = sizes(this.config);
    return {
      convState: { shape: [batch, convSize - 1, convDim] },
      ssmState: { shape: [batch, numHeads, headDim, stateSize] },
    };
  }

  protected run(x: Tensor, given: Given): ReturnType<Mamba2Block["outputs"]> {
    return this.outputs(x, given);
  }

  /**
   * The output and the states after it, from the states before it (zero by default): convState
   * [batch, convSize - 1, Di + 2 G N] and ssmState [batch, heads, headDim, stateSize].
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  outputs(x: Tensor, options: Config<typeof CALL> = {}): MambaStates & { readonly out: Tensor } {
    const who = MAMBA2.name;
    const { dim, numHeads, headDim, stateSize, numGroups, innerDim, convDim, convSize } = sizes(this.config);
    const { convState, ssmState, residual } = CALL.read(options);
    const { batch, tokens: seq } = expectInput(who, x, dim, residual);
    expectFloat32(who, { convState, ssmState });
    if (ssmState) expectShape(who, "ssmState", ssmState, [batch, numHeads, headDim, stateSize]);
    if (convState) expectShape(who, "convState", convState, [batch, convSize - 1, convDim]);
    const p = this.weights;
    const { form, chunkSize, dtLimit } = this.config;
    return x.gpu.scope(() => {
      const projected = linear(x, p["in_proj.weight"]!, p["in_proj.bias"]);
      const [z, xbc, dt] = split(projected, [innerDim, convDim, numHeads]) as [Tensor, Tensor, Tensor];
      const conv = causalConv1d(xbc, tapsOf(p["conv1d.weight"]!), {
        bias: p["conv1d.bias"],
        state: convState,
      });
      const width = numGroups * stateSize;
      const [u, b, c] = split(silu(conv.out), [innerDim, width, width]) as [Tensor, Tensor, Tensor];
      const grouped = (t: Tensor): Tensor => t.reshape([batch, seq, numGroups, stateSize]);
      const y = ssd(
        u.reshape([batch, seq, numHeads, headDim]),
        dt,
        grouped(b),
        grouped(c),
        { a: negativeExp(p["A_log"]!), dSkip: p["D"]!, dtBias: p["dt_bias"] },
        { form, chunkSize, dtLimit, layout: "bshd", dtSoftplus: true, state: ssmState },
      );
      const out = linear(
        this.#norm(y.out.reshape([batch, seq, innerDim]), z),
        p["out_proj.weight"]!,
        p["out_proj.bias"],
        { residual },
      );
      return { out, convState: conv.state, ssmState: y.state };
    });
  }

  /** rms(y silu(z)) weight, or rms(y) weight silu(z), the mean square in each of normGroups parts. */
  #norm(y: Tensor, z: Tensor): Tensor {
    const { normGroups, normBeforeGate, normEps } = this.config;
    const parts = [normGroups, y.shape[2]! / normGroups];
    const rms = (t: Tensor): Tensor =>
      plainRmsNorm(t.reshape([...t.shape.slice(0, 2), ...parts]), {
        weight: this.weights["norm.weight"]!.reshape(parts),
        eps: normEps,
      }).reshape(t.shape);
    return normBeforeGate ? gate(rms(y), z) : rms(gate(y, z));
  }
}

/** The configuration and the widths that follow from it. @throws ConfigError */
function sizes(config: Mamba2Config) {
  const who = MAMBA2.name;
  const read = MAMBA2.read(config);
  const { dim, numHeads, headDim = (2 * dim) / numHeads, stateSize, numGroups, normGroups, form } = read;
  if (!Number.isInteger(headDim))
    throw new ConfigError(who, `numHeads is ${numHeads}; without headDim it must divide 2 dim, ${2 * dim}`);
  const chunkSize = read.chunkSize ?? (form === "chunkwise" ? 64 : undefined);
  chunkOf(who, { form, chunkSize }, 1);
  const innerDim = numHeads * headDim;
  if (numHeads % numGroups !== 0)
    throw new ConfigError(
      who,
      `numHeads is ${numHeads}, numGroups ${numGroups}; the second must divide the first`,
    );
  if (innerDim % normGroups !== 0)
    throw new ConfigError(
      who,
      `numHeads headDim is ${innerDim}, normGroups ${normGroups}; the second must divide the first`,
    );
  return { ...read, headDim, chunkSize, innerDim, convDim: innerDim + 2 * numGroups * stateSize };
}
