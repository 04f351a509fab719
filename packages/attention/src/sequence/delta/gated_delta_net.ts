import {
  boolean,
  causalConv1d,
  concat,
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
  type Config,
  type ConfigOf,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { plainRmsNorm } from "../../block/parts.js";
import { expectFloat32 } from "../decay/decayed_attention.js";
import { convolution, negativeExp, stepBias, logDecays, tapsOf } from "../state/parameters.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import { expectInput, RESIDUAL, type StatePlan } from "../state/sequence_state.js";
import { gatedDeltaRule } from "./gated_delta_rule.js";

const GATED_DELTA_NET = schema("GatedDeltaNet", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  numKeyHeads: integer("Heads of q and k; it divides numValueHeads.", { min: 1 }),
  numValueHeads: integer("Heads of v, of the state and of the output.", { min: 1 }),
  keyDim: integer("Width of a head of q and k.", { min: 1 }),
  valueDim: integer("Width of a head of v.", { min: 1 }),
  convSize: integer("Taps of the convolution.", { min: 1, default: 4 }),
  convBias: boolean("The convolution has a bias.", { default: false }),
  gateFn: oneOf('Function of the output gate; "none": there is no gate.', ["silu", "sigmoid", "none"], {
    default: "silu",
  }),
  projections: oneOf(
    '"separate": in_proj_qkv, in_proj_z, in_proj_b and in_proj_a (Qwen3.5); "byKeyHead": in_proj_qkvz and in_proj_ba, whose rows are fused by key head (Qwen3-Next).',
    ["separate", "byKeyHead"],
    { default: "separate" },
  ),
  allowNegEigval: boolean("beta reaches to 2 in place of 1.", { default: false }),
  normEps: number("Added to the mean square of the output's norm.", { min: 0, default: 1e-6 }),
  l2Eps: number("Added to the square of q and k.", { min: 0, default: 1e-6 }),
  form: oneOf(
    "How a sequence is gone through; the forms are equal up to rounding.",
    ["recurrent", "chunkwise"],
    {
      default: "chunkwise",
    },
  ),
  chunkSize: integer('Tokens of a chunk, for the form "chunkwise".', { min: 1, defaultDoc: "64" }),
});
export type GatedDeltaNetConfig = Config<typeof GATED_DELTA_NET>;

const STATES = {
  convState: tensor("The convolution's last inputs, [batch, convSize - 1, 2 Hk Dk + H Dv].", {
    defaultDoc: "zeros",
  }),
  state: tensor("S before the first token, [batch, H, Dk, Dv].", { defaultDoc: "zeros" }),
};
const CALL = schema(GATED_DELTA_NET.name, { ...STATES, ...RESIDUAL });
export type GatedDeltaNetOptions = ConfigOf<typeof CALL.fields>;

/** The states after a call, which continue the sequence. */
export interface GatedDeltaNetStates {
  readonly convState: Tensor;
  readonly state: Tensor;
}

const logDecay = elementwise("gatedDeltaDecay", ["rate", "a", "bias"], (rate, a, bias) =>
  e.mul(rate, e.softplus(e.add(a, bias))),
);
const strength = elementwise("gatedDeltaBeta", ["b", "top"], (b, top) => e.mul(top, e.sigmoid(b)));
const GATES = {
  silu: elementwise("y silu(z)", ["y", "z"], (y, z) => e.mul(y, e.silu(z))),
  sigmoid: elementwise("y sigmoid(z)", ["y", "z"], (y, z) => e.mul(y, e.sigmoid(z))),
};

/**
 * Gated DeltaNet's layer, three of four layers of Qwen3-Next and Qwen3.5: (q, k, v) = silu(conv(x W_qkv^T)),
 * beta = sigmoid(x W_b^T), g = -e^A_log softplus(x W_a^T + dt_bias), o = gatedDeltaRule(q, k, v, g, beta) with q and k of
 * length 1 and q divided by Dk^(1/2), out = (rms(o) norm.weight * silu(x W_z^T)) W_out^T: the norm, over each head's
 * features, comes before the gate. No norm of x and no residual of its own.
 *
 * x [batch, seq, dim], f32. With Hk = numKeyHeads, H = numValueHeads, Dk = keyDim, Dv = valueDim: parameters conv1d.weight
 * [2 Hk Dk + H Dv, 1, convSize], conv1d.bias, A_log, dt_bias [H], norm.weight [Dv], out_proj.weight [dim, H Dv]; separate
 * projections in_proj_qkv.weight [2 Hk Dk + H Dv, dim], in_proj_z.weight [H Dv, dim], in_proj_b.weight, in_proj_a.weight
 * [H, dim]; or by key head in_proj_qkvz.weight, for each key head Dk rows of q, Dk of k and H Dv / Hk each of v and z, and
 * in_proj_ba.weight, for each key head H / Hk rows each of b and a.
 * Yang et al. 2024, arXiv:2412.06464, section 3.4.
 */
export class GatedDeltaNet extends SequenceMixer<typeof GATED_DELTA_NET> {
  static readonly schema = GATED_DELTA_NET;

  /**
   * Names, shapes and initial values of the parameters: rates of decay from 1 to 16, steps of 0.001 to 0.1, normal matrices.
   *
   * @throws ConfigError
   */
  static plan(config: GatedDeltaNetConfig): ParameterPlan {
    const { dim, numValueHeads, valueDim, convDim, innerDim, gated, ...own } = sizes(config);
    return {
      ...(own.projections === "separate"
        ? {
            "in_proj_qkv.weight": matrix(convDim, dim),
            ...(gated ? { "in_proj_z.weight": matrix(innerDim, dim) } : {}),
            "in_proj_b.weight": matrix(numValueHeads, dim),
            "in_proj_a.weight": matrix(numValueHeads, dim),
          }
        : {
            "in_proj_qkvz.weight": matrix(convDim + (gated ? innerDim : 0), dim),
            "in_proj_ba.weight": matrix(2 * numValueHeads, dim),
          }),
      ...convolution("conv1d", convDim, own.convSize, own.convBias),
      dt_bias: { shape: [numValueHeads], init: stepBias },
      A_log: { shape: [numValueHeads], init: logDecays },
      "norm.weight": ones(valueDim),
      "out_proj.weight": matrix(dim, innerDim, "output"),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: GatedDeltaNetConfig, parameters: Parameters) {
    super(GATED_DELTA_NET, config, GatedDeltaNet.plan(config), parameters);
  }

  protected statePlan(batch: number): StatePlan {
    const { numValueHeads, keyDim, valueDim, convSize, convDim } = sizes(this.config);
    return {
      convState: { shape: [batch, convSize - 1, convDim] },
      state: { shape: [batch, numValueHeads, keyDim, valueDim] },
    };
  }

  protected run(x: Tensor, given: Given): ReturnType<GatedDeltaNet["outputs"]> {
    return this.outputs(x, given);
  }

  /**
   * The output and the states after it, from the states before it (zero by default).
   *
   * @throws ShapeError, DTypeError, ConfigError
   */
  outputs(x: Tensor, options: GatedDeltaNetOptions = {}): GatedDeltaNetStates & { readonly out: Tensor } {
    const who = GATED_DELTA_NET.name;
    const { convState, state, residual } = CALL.read(options);
    const own = sizes(this.config);
    const { batch, tokens } = expectInput(who, x, own.dim, residual);
    expectFloat32(who, { convState, state });
    for (const [name, { shape }] of Object.entries(this.statePlan(batch))) {
      const given = { convState, state }[name];
      if (given) expectShape(who, name, given, shape);
    }
    const p = this.weights;
    return x.gpu.scope(() => {
      const { qkv, z, b, a } = this.#projected(x);
      const conv = causalConv1d(qkv, tapsOf(p["conv1d.weight"]!), {
        bias: p["conv1d.bias"],
        state: convState,
      });
      const keys = own.numKeyHeads * own.keyDim;
      const [q, k, v] = split(silu(conv.out), [keys, keys, own.innerDim]) as [Tensor, Tensor, Tensor];
      const heads = (t: Tensor, count: number): Tensor =>
        t.reshape([batch, tokens, count, t.shape[2]! / count]);
      const memory = gatedDeltaRule(
        heads(q, own.numKeyHeads),
        heads(k, own.numKeyHeads),
        heads(v, own.numValueHeads),
        logDecay(negativeExp(p["A_log"]!), a, p["dt_bias"]!),
        strength(b, own.allowNegEigval ? 2 : 1),
        {
          ...{ state, layout: "bshd", qkL2norm: true, l2Eps: own.l2Eps, form: own.form },
          ...(own.chunkSize === undefined ? {} : { chunkSize: own.chunkSize }),
        },
      );
      const normed = plainRmsNorm(memory.out, { weight: p["norm.weight"]!, eps: own.normEps });
      const y = normed.reshape([batch, tokens, own.innerDim]);
      const gated = own.gateFn === "none" ? y : GATES[own.gateFn](y, z!);
      const out = linear(gated, p["out_proj.weight"]!, undefined, { residual });
      return { out, convState: conv.state, state: memory.state };
    });
  }

  /** The inputs of the convolution, the gate, and what beta and the decay are made of, each [batch, seq, features]. */
  #projected(x: Tensor): { qkv: Tensor; z: Tensor | undefined; b: Tensor; a: Tensor } {
    const p = this.weights;
    const { numKeyHeads, numValueHeads, keyDim, innerDim, gated, projections } = sizes(this.config);
    const project = (name: string): Tensor => linear(x, p[`${name}.weight`]!);
    if (projections === "separate")
      return {
        ...{ qkv: project("in_proj_qkv"), z: gated ? project("in_proj_z") : undefined },
        ...{ b: project("in_proj_b"), a: project("in_proj_a") },
      };
    /** The parts of every key head, each joined over the heads. */
    const parts = (name: string, widths: readonly number[]): Tensor[] => {
      const y = project(name);
      const byHead = y.reshape([...x.shape.slice(0, 2), numKeyHeads, y.shape[2]! / numKeyHeads]);
      return split(byHead, widths).map((t) => t.reshape([...x.shape.slice(0, 2), numKeyHeads * t.shape[3]!]));
    };
    const width = innerDim / numKeyHeads;
    const [q, k, v, z] = parts("in_proj_qkvz", [keyDim, keyDim, width, ...(gated ? [width] : [])]);
    const shared = numValueHeads / numKeyHeads;
    const [b, a] = parts("in_proj_ba", [shared, shared]);
    return { qkv: concat([q!, k!, v!], 2), z, b: b!, a: a! };
  }
}

/** The configuration and the widths that follow from it. @throws ConfigError */
function sizes(config: GatedDeltaNetConfig) {
  const who = GATED_DELTA_NET.name;
  const read = GATED_DELTA_NET.read(config);
  const { numKeyHeads, numValueHeads, keyDim, valueDim, form, chunkSize } = read;
  if (numValueHeads % numKeyHeads !== 0)
    throw new ConfigError(
      who,
      `numValueHeads is ${numValueHeads}, numKeyHeads ${numKeyHeads}; the second must divide the first`,
    );
  if (chunkSize !== undefined && form !== "chunkwise")
    throw new ConfigError(who, `chunkSize is ${chunkSize}, form "${form}"; it belongs to form "chunkwise"`);
  const innerDim = numValueHeads * valueDim;
  return {
    ...read,
    gated: read.gateFn !== "none",
    innerDim,
    convDim: 2 * numKeyHeads * keyDim + innerDim,
  };
}
