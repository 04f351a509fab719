import {
  broadcastTo,
  checkConfig,
  concat,
  ConfigError,
  e,
  elementwise,
  expectBoolean,
  expectInteger,
  expectNumber,
  expectOneOf,
  expectShape,
  matmul,
  slice,
  transpose,
  type Expr,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import type { AttentionLayout } from "../../engine/options.js";
import { mergeHeads, splitHeads } from "../../heads/heads.js";
import { checkParameters, initParameters, matrix, type InitOptions, type Plan } from "../../parameters.js";
import {
  chunkOf,
  decayedAttention,
  expectFloat32,
  expectHeads,
  type SequenceForm,
} from "../decay/decayed_attention.js";
import {
  expectCall,
  newState,
  type SequenceOptions,
  type SequenceState,
  type StateOptions,
  type StatePlan,
} from "../state/sequence_state.js";

export interface LinearAttentionConfig extends SequenceForm {
  /** phi: `elu1` (default): e^x below 0, x + 1 from there; `relu`; `identity`. */
  readonly featureMap?: "elu1" | "relu" | "identity" | undefined;
  /** Divide by the sum of weights; default true. */
  readonly normalize?: boolean | undefined;
  /** Added to that sum; default 1e-6. */
  readonly eps?: number | undefined;
  /** Default true; false: every token sees all, and there is neither form nor state. */
  readonly causal?: boolean | undefined;
}

export interface LinearAttentionOptions extends LinearAttentionConfig {
  /** [batch, heads, dim, valueDim]: S before the first token; default zeros. */
  readonly state?: Tensor | undefined;
  /** [batch, heads, dim]: z before the first token, where normalized; default zeros. */
  readonly zState?: Tensor | undefined;
}

export interface LinearAttentionResult {
  readonly out: Tensor;
  /** Where causal. */
  readonly state?: Tensor;
  /** Where causal and normalized. */
  readonly zState?: Tensor;
}

const KEYS = ["featureMap", "normalize", "eps", "causal", "form", "chunkSize"];

const map = (of: (x: Expr) => Expr): ((x: Tensor) => Tensor) => elementwise("featureMap", ["x"], of);
const MAPS = {
  elu1: map((x) => e.select(e.lt(x, 0), e.exp(e.min(x, 0)), e.add(x, 1))),
  relu: map((x) => e.max(x, 0)),
  identity: (x: Tensor): Tensor => x,
};
const divided = elementwise("linearAttentionDivide", ["o", "sum", "eps"], (o, sum, eps) =>
  e.div(o, e.add(sum, eps)),
);

/**
 * Attention without softmax: S_t = S_{t-1} + phi(k_t)^T v_t, z_t = z_{t-1} + phi(k_t),
 * out_t = phi(q_t) S_t / (phi(q_t) . z_t + eps).
 *
 * q, k [batch, heads, tokens, dim], v [batch, heads, tokens, valueDim], all f32. Gives out [batch, heads, tokens, valueDim]
 * and the states S and z after the last token. Differentiable in all of them.
 * Katharopoulos et al. 2020, arXiv:2006.16236, section 3.
 *
 * @throws ConfigError, DTypeError, ShapeError
 */
export function linearAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: LinearAttentionOptions = {},
): LinearAttentionResult {
  const who = "linearAttention";
  checkConfig(who, options, [...KEYS, "state", "zState"]);
  checkLinear(who, options);
  const { state, zState, normalize = true, causal = true } = options;
  const { batch, heads, dim } = expectHeads(who, { q, k, v, state });
  if (zState !== undefined) expectShape(who, "zState", zState, [batch, heads, dim]);
  expectFloat32(who, { zState });
  if (!causal && (state || zState))
    throw new ConfigError(
      who,
      `${state ? "state" : "zState"} is given, causal is false; only causal sums go on`,
    );
  if (!normalize && zState)
    throw new ConfigError(who, "zState is given, normalize is false; there is no sum");
  return attend(who, q, k, v, options, "bhsd");
}

/** @throws ConfigError */
function checkLinear(who: string, config: LinearAttentionConfig): void {
  const { featureMap = "elu1", eps = 1e-6, causal = true, normalize = true, form, chunkSize } = config;
  expectBoolean(who, "causal", causal);
  expectBoolean(who, "normalize", normalize);
  expectOneOf(who, "featureMap", featureMap, ["elu1", "relu", "identity"]);
  expectNumber(who, "eps", eps, 0);
  if (!causal && (form ?? chunkSize) !== undefined)
    throw new ConfigError(
      who,
      `${form === undefined ? "chunkSize" : "form"} is ${String(form ?? chunkSize)}, causal is false; only causal sums have forms`,
    );
  if (causal) chunkOf(who, config, 1);
}

function attend(
  who: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options: LinearAttentionOptions,
  layout: AttentionLayout,
): LinearAttentionResult {
  const { featureMap = "elu1", normalize = true, eps = 1e-6, causal = true, state, zState } = options;
  const { gpu } = q;
  const valueDim = v.shape[3]!;
  return gpu.scope(() => {
    const [phiQ, phiK] = [MAPS[featureMap](q), MAPS[featureMap](k)];
    // z is what the values' sum is for a value of 1: columns of ones go along, as many as make the width a multiple of 4.
    const extra = normalize ? 4 - (valueDim % 4) : 0;
    const ones = normalize ? gpu.full([...v.shape.slice(0, 3), extra], 1) : undefined;
    const values = ones ? concat([v, ones], 3) : v;
    const columns = (t: Tensor, start: number, end: number): Tensor => slice(t, { axis: 3, start, end });
    const finish = (o: Tensor): Tensor =>
      normalize ? divided(columns(o, 0, valueDim), columns(o, valueDim, valueDim + 1), eps) : o;
    if (!causal) {
      const turn = (t: Tensor): Tensor => (layout === "bhsd" ? t : transpose(t, [0, 2, 1, 3]));
      const sums = matmul(turn(phiK), turn(values), { transposeA: true });
      return { out: finish(turn(matmul(turn(phiQ), sums))) };
    }
    const tokens = v.shape[layout === "bhsd" ? 2 : 1]!;
    const heads = v.shape[layout === "bhsd" ? 1 : 2]!;
    const start = startOf(state, zState, [v.shape[0]!, heads, q.shape[3]!, valueDim], extra);
    const { out, state: next } = decayedAttention(
      who,
      { q: phiQ, k: phiK, v: values, logDecay: gpu.zeros([heads]), state: start },
      { chunk: chunkOf(who, options, tokens), scale: 1, layout },
    );
    if (!normalize) return { out, state: next };
    return {
      out: finish(out),
      state: columns(next, 0, valueDim),
      zState: columns(next, valueDim, valueDim + 1).reshape(next.shape.slice(0, 3)),
    };
  });
}

/** S with the columns of z beside it. */
function startOf(
  state: Tensor | undefined,
  zState: Tensor | undefined,
  shape: readonly [number, number, number, number],
  extra: number,
): Tensor | undefined {
  const gpu = (state ?? zState)?.gpu;
  if (!gpu || extra === 0) return state;
  const rows = shape.slice(0, 3);
  const z = zState
    ? broadcastTo(zState.reshape([...rows, 1]), [...rows, extra])
    : gpu.zeros([...rows, extra]);
  return concat([state ?? gpu.zeros(shape), z], 3);
}

export interface LinearAttentionLayerConfig extends LinearAttentionConfig {
  /** Width of x and of the output. */
  readonly dim: number;
  readonly numHeads: number;
}

/**
 * Linear attention between projections: q, k, v = split(x Wq^T), split(x Wk^T), split(x Wv^T);
 * out = merge(linearAttention(q, k, v)) Wo^T.
 *
 * x [batch, tokens, dim], f32. Parameters q_proj, k_proj, v_proj, o_proj (`.weight` [dim, dim]).
 * Katharopoulos et al. 2020, arXiv:2006.16236, section 3.
 */
export class LinearAttention implements Module {
  readonly config: LinearAttentionLayerConfig;
  readonly #p: Record<string, Tensor>;

  /** @throws ConfigError */
  constructor(config: LinearAttentionLayerConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("LinearAttention", LinearAttention.plan(config), parameters);
    this.config = config;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: LinearAttentionLayerConfig): Plan {
    const who = "LinearAttention";
    checkConfig(who, config, ["dim", "numHeads", ...KEYS]);
    const { dim, numHeads } = config;
    expectInteger(who, "dim", dim, 1);
    expectInteger(who, "numHeads", numHeads, 1);
    if (dim % numHeads !== 0)
      throw new ConfigError(
        who,
        `dim is ${dim}, numHeads ${numHeads}; the first must be a multiple of the second`,
      );
    checkLinear(who, config);
    const projections = ["q_proj", "k_proj", "v_proj", "o_proj"];
    return Object.fromEntries(projections.map((name) => [`${name}.weight`, matrix(dim, dim)]));
  }

  /** Normal matrices. */
  static init(gpu: Gpu, config: LinearAttentionLayerConfig, options: InitOptions): LinearAttention {
    const plan = LinearAttention.plan(config);
    return new LinearAttention(config, initParameters("LinearAttention", gpu, plan, options));
  }

  /** The state of a decoding run, of one size however long the text. @throws ConfigError if not causal */
  createState(options: StateOptions): SequenceState {
    if (this.config.causal === false)
      throw new ConfigError("LinearAttention", "causal is false; only causal sums go on");
    return newState("LinearAttention", this.#p, options, (batch) => this.#statePlan(batch));
  }

  #statePlan(batch: number): StatePlan {
    const { dim, numHeads, normalize = true } = this.config;
    const headDim = dim / numHeads;
    return {
      state: { shape: [batch, numHeads, headDim, headDim] },
      ...(normalize ? { zState: { shape: [batch, numHeads, headDim] } } : {}),
    };
  }

  /** x [batch, tokens, dim]: a whole sequence, or what follows the state. */
  forward(x: Tensor, options: SequenceOptions = {}): Tensor {
    const who = "LinearAttention";
    expectCall(who, x, this.config.dim, options, (batch) => this.#statePlan(batch));
    const { state, residual } = options;
    const { numHeads, ...config } = this.config;
    const p = this.#p;
    const tokens = x.shape[1]!;
    const { state: before, zState } = state?.tensors ?? {};
    return x.gpu.scope(() => {
      const cut = (name: string): Tensor => splitHeads(x, numHeads, p[`${name}.weight`]!);
      const step = before && tokens === 1 ? ({ form: "recurrent", chunkSize: undefined } as const) : {};
      const { out, ...next } = attend(
        who,
        cut("q_proj"),
        cut("k_proj"),
        cut("v_proj"),
        { ...config, ...step, state: before, zState },
        "bshd",
      );
      state?.update({ ...next });
      return mergeHeads(out, p["o_proj.weight"]!, undefined, residual);
    });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}
