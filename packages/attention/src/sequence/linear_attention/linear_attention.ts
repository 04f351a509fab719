import {
  boolean,
  broadcastTo,
  concat,
  ConfigError,
  e,
  elementwise,
  expectShape,
  integer,
  matmul,
  matrix,
  number,
  oneOf,
  schema,
  slice,
  tensor,
  transpose,
  type Config,
  type Expr,
  type ParameterPlan,
  type Parameters,
  type Resolved,
  type Tensor,
} from "@x/kernels";
import type { AttentionLayout } from "../../engine/options.js";
import { mergeHeads, splitHeads } from "../../block/heads.js";
import {
  chunkOf,
  decayedAttention,
  expectFloat32,
  expectHeads,
  FORM_FIELDS,
  type SequenceForm,
} from "../decay/decayed_attention.js";
import { SequenceMixer, type Given } from "../state/sequence_mixer.js";
import type { SequenceState, StateOptions, StatePlan } from "../state/sequence_state.js";

const FIELDS = {
  featureMap: oneOf("phi. elu1: e^x below 0, x + 1 from there.", ["elu1", "relu", "identity"], {
    default: "elu1",
  }),
  normalize: boolean("Divide by the sum of weights.", { default: true }),
  eps: number("Added to that sum.", { min: 0, default: 1e-6 }),
  causal: boolean("Where false, every token sees all, and there is neither form nor state.", {
    default: true,
  }),
  ...FORM_FIELDS,
};
const OPTIONS = schema("linearAttention", {
  ...FIELDS,
  state: tensor("[batch, heads, dim, valueDim]: S before the first token; zeros where it is left out.", {
    optional: true,
  }),
  zState: tensor(
    "[batch, heads, dim]: z before the first token, where normalized; zeros where it is left out.",
    {
      optional: true,
    },
  ),
});
const LAYER = schema("LinearAttention", {
  dim: integer("Width of x and of the output, a multiple of numHeads.", { min: 1 }),
  numHeads: integer("Heads, each of dim / numHeads features.", { min: 1 }),
  ...FIELDS,
});
export type LinearAttentionOptions = Config<typeof OPTIONS>;
export type LinearAttentionLayerConfig = Config<typeof LAYER>;

export interface LinearAttentionResult {
  readonly out: Tensor;
  /** Where causal. */
  readonly state?: Tensor;
  /** Where causal and normalized. */
  readonly zState?: Tensor;
}

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
  const who = OPTIONS.name;
  const read = OPTIONS.read(options);
  checkForm(who, read);
  const { state, zState, normalize, causal } = read;
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
  return attend(who, q, k, v, read, "bhsd");
}

/** @throws ConfigError */
function checkForm(who: string, config: SequenceForm & { readonly causal: boolean }): void {
  const { causal, form, chunkSize } = config;
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
  options: Resolved<typeof OPTIONS>,
  layout: AttentionLayout,
): LinearAttentionResult {
  const { featureMap, normalize, eps, causal, state, zState } = options;
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

/**
 * Linear attention between projections: q, k, v = split(x Wq^T), split(x Wk^T), split(x Wv^T);
 * out = merge(linearAttention(q, k, v)) Wo^T.
 *
 * x [batch, tokens, dim], f32. Parameters q_proj, k_proj, v_proj, o_proj (`.weight` [dim, dim]).
 * Katharopoulos et al. 2020, arXiv:2006.16236, section 3.
 */
export class LinearAttention extends SequenceMixer<typeof LAYER> {
  static readonly schema = LAYER;

  /** Names, shapes and initial values of the parameters: normal matrices. @throws ConfigError */
  static plan(config: LinearAttentionLayerConfig): ParameterPlan {
    const { dim, numHeads, ...rest } = LAYER.read(config);
    if (dim % numHeads !== 0)
      throw new ConfigError(
        LAYER.name,
        `dim is ${dim}, numHeads ${numHeads}; the first must be a multiple of the second`,
      );
    checkForm(LAYER.name, rest);
    return {
      "q_proj.weight": matrix(dim, dim),
      "k_proj.weight": matrix(dim, dim),
      "v_proj.weight": matrix(dim, dim, "value"),
      "o_proj.weight": matrix(dim, dim, "output"),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: LinearAttentionLayerConfig, parameters: Parameters) {
    super(LAYER, config, LinearAttention.plan(config), parameters);
  }

  /** An empty state, whose size does not depend on the text's length. @throws ConfigError, also if not causal */
  override createState(options: StateOptions): SequenceState {
    if (!this.config.causal) throw new ConfigError(LAYER.name, "causal is false; only causal sums go on");
    return super.createState(options);
  }

  protected statePlan(batch: number): StatePlan {
    const { dim, numHeads, normalize } = this.config;
    const headDim = dim / numHeads;
    return {
      state: { shape: [batch, numHeads, headDim, headDim] },
      ...(normalize ? { zState: { shape: [batch, numHeads, headDim] } } : {}),
    };
  }

  protected run(x: Tensor, { state, zState, residual }: Given): LinearAttentionResult {
    const { numHeads, featureMap, normalize, eps, causal, form, chunkSize } = this.config;
    const p = this.weights;
    const cut = (name: string): Tensor => splitHeads(x, numHeads, p[`${name}.weight`]!);
    const way =
      state && x.shape[1] === 1
        ? ({ form: "recurrent", chunkSize: undefined } as const)
        : { form, chunkSize };
    const { out, ...next } = attend(
      LAYER.name,
      cut("q_proj"),
      cut("k_proj"),
      cut("v_proj"),
      { featureMap, normalize, eps, causal, ...way, state, zState },
      "bshd",
    );
    return { out: mergeHeads(out, p["o_proj.weight"]!, undefined, residual), ...next };
  }
}
