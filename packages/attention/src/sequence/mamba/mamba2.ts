import {
  causalConv1d,
  checkConfig,
  ConfigError,
  e,
  elementwise,
  expectInteger,
  expectNumber,
  expectShape,
  linear,
  log,
  randomUniform,
  silu,
  split,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { expectFloat32 } from "../decay/decayed_attention.js";
import {
  checkParameters,
  initParameters,
  matrix,
  ones,
  zeros,
  type Draw,
  type InitOptions,
  type Plan,
} from "../../parameters.js";
import { plainRmsNorm } from "../../block/parts.js";
import type { SequenceForm } from "../decay/decayed_attention.js";
import { negativeExp, stepBias, uniform, type MambaStates } from "./mamba.js";
import {
  carried,
  expectCall,
  expectInput,
  newState,
  type Before,
  type SequenceOptions,
  type SequenceState,
  type StateOptions,
  type StatePlan,
} from "../state/sequence_state.js";
import { ssd, type SsdOptions } from "./ssd.js";

export interface Mamba2Config extends SequenceForm, Pick<SsdOptions, "form" | "dtLimit"> {
  /** Width of x and of the output. */
  readonly dim: number;
  readonly numHeads: number;
  readonly headDim: number;
  readonly stateSize: number;
  /** Groups of heads that share b and c; default 1. */
  readonly numGroups?: number;
  /** Equal parts of numHeads headDim whose mean square is taken apart; default 1. */
  readonly normGroups?: number;
  /** The norm comes before the gate; default false. */
  readonly normBeforeGate?: boolean;
  /** Default 1e-5. */
  readonly normEps?: number;
  /** Taps of the convolution; default 4. */
  readonly convSize?: number;
}

const KEYS = [
  "dim",
  "numHeads",
  "headDim",
  "stateSize",
  "numGroups",
  "normGroups",
  "normBeforeGate",
  "normEps",
  "convSize",
  "dtLimit",
  "form",
  "chunkSize",
];

const gate = elementwise("y silu(z)", ["y", "z"], (y, z) => e.mul(y, e.silu(z)));

/** A from -1 to -16. */
const logDecays: Draw = (gpu, shape, random) =>
  log(randomUniform(gpu, shape, { ...random, low: 1, high: 16 }));

/**
 * Mamba-2's block: (z, xbc, dt) = split(u W_in^T), (x, b, c) = split(silu(conv(xbc))), y = ssd(x, dt, b, c) with
 * a = -e^A_log, dt = softplus(dt + dt_bias) in `dtLimit`, the skip D and heads of headDim; out = rms(y silu(z)) W_out^T.
 * No residual of its own.
 *
 * u [batch, seq, dim], f32. Parameters in_proj.weight [2 Di + 2 G N + H, dim], out_proj.weight [dim, Di], conv1d.weight
 * [Di + 2 G N, convSize], conv1d.bias, dt_bias, A_log, D [H], norm.weight [Di], with Di = H headDim.
 * Dao and Gu 2024, arXiv:2405.21060, section 7.
 */
export class Mamba2Block implements Module {
  readonly config: Mamba2Config;
  readonly #p: Record<string, Tensor>;

  /** @throws ConfigError */
  constructor(config: Mamba2Config, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("Mamba2Block", Mamba2Block.plan(config), parameters);
    this.config = config;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: Mamba2Config): Plan {
    const { dim, numHeads, innerDim, convDim, convSize } = sizes(config);
    return {
      "in_proj.weight": matrix(innerDim + convDim + numHeads, dim),
      "conv1d.weight": { shape: [convDim, convSize], init: uniform(convSize ** -0.5) },
      "conv1d.bias": zeros(convDim),
      dt_bias: { shape: [numHeads], init: stepBias },
      A_log: { shape: [numHeads], init: logDecays },
      D: ones(numHeads),
      "norm.weight": ones(innerDim),
      "out_proj.weight": matrix(dim, innerDim),
    };
  }

  /** A between -1 and -16, steps of 0.001 to 0.1, normal matrices. */
  static init(gpu: Gpu, config: Mamba2Config, options: InitOptions): Mamba2Block {
    return new Mamba2Block(config, initParameters("Mamba2Block", gpu, Mamba2Block.plan(config), options));
  }

  /** An empty state; its size does not depend on the text's length. */
  createState(options: StateOptions): SequenceState {
    return newState("Mamba2Block", this.#p, options, (batch) => this.#statePlan(batch));
  }

  #statePlan(batch: number): StatePlan {
    const { numHeads, headDim, stateSize, convDim, convSize } = sizes(this.config);
    return {
      convState: { shape: [batch, convSize - 1, convDim] },
      ssmState: { shape: [batch, numHeads, headDim, stateSize] },
    };
  }

  forward(x: Tensor, options: SequenceOptions = {}): Tensor {
    expectCall("Mamba2Block", x, this.config.dim, options, (batch) => this.#statePlan(batch));
    return carried(x, options, (given) => this.outputs(x, given));
  }

  /**
   * The output and the states after it, from the states before it (zero by default): convState
   * [batch, convSize - 1, Di + 2 G N] and ssmState [batch, heads, headDim, stateSize].
   */
  outputs(
    x: Tensor,
    options: Before<MambaStates> & Pick<SequenceOptions, "residual"> = {},
  ): MambaStates & { readonly out: Tensor } {
    const who = "Mamba2Block";
    checkConfig(who, options, ["convState", "ssmState", "residual"]);
    const { dim, numHeads, headDim, stateSize, numGroups, innerDim, convDim, convSize } = sizes(this.config);
    const { convState, ssmState, residual } = options;
    const { batch, tokens: seq } = expectInput(who, x, dim, residual);
    expectFloat32(who, { convState, ssmState });
    if (ssmState) expectShape(who, "ssmState", ssmState, [batch, numHeads, headDim, stateSize]);
    if (convState) expectShape(who, "convState", convState, [batch, convSize - 1, convDim]);
    const p = this.#p;
    const { form, chunkSize, dtLimit } = this.config;
    return x.gpu.scope(() => {
      const projected = linear(x, p["in_proj.weight"]!);
      const [z, xbc, dt] = split(projected, [innerDim, convDim, numHeads]) as [Tensor, Tensor, Tensor];
      const conv = causalConv1d(xbc, p["conv1d.weight"]!, { bias: p["conv1d.bias"], state: convState });
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
        undefined,
        { residual },
      );
      return { out, convState: conv.state, ssmState: y.state };
    });
  }

  /** rms(y silu(z)) weight, or rms(y) weight silu(z), the mean square in each of normGroups parts. */
  #norm(y: Tensor, z: Tensor): Tensor {
    const { normGroups, normBeforeGate, normEps } = sizes(this.config);
    const parts = [normGroups, y.shape[2]! / normGroups];
    const rms = (t: Tensor): Tensor =>
      plainRmsNorm(t.reshape([...t.shape.slice(0, 2), ...parts]), {
        weight: this.#p["norm.weight"]!.reshape(parts),
        eps: normEps,
      }).reshape(t.shape);
    return normBeforeGate ? gate(rms(y), z) : rms(gate(y, z));
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}

function sizes(config: Mamba2Config) {
  const who = "Mamba2Block";
  checkConfig(who, config, KEYS);
  const { dim, numHeads, headDim, stateSize, numGroups = 1, normGroups = 1 } = config;
  const { normBeforeGate = false, normEps = 1e-5, convSize = 4 } = config;
  const counts = { dim, numHeads, headDim, stateSize, numGroups, normGroups, convSize };
  for (const [name, n] of Object.entries(counts)) expectInteger(who, name, n, 1);
  expectNumber(who, "normEps", normEps, 0);
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
  return { ...counts, normBeforeGate, normEps, innerDim, convDim: innerDim + 2 * numGroups * stateSize };
}
