import {
  boolean,
  broadcastTo,
  Component,
  concat,
  ConfigError,
  expectShape,
  expectTensor,
  integer,
  linear,
  matmul,
  matrix,
  number,
  oneOf,
  ones,
  pad,
  schema,
  slice,
  split,
  tensor,
  transpose,
  value,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Stateful,
  type Tensor,
} from "@x/kernels";
import { attention } from "../engine/attention.js";
import { mergeHeads, splitHeads } from "../block/heads.js";
import { LatentCache } from "../cache/latent_cache.js";
import { POSITION_FIELDS, STATE_FIELDS } from "../cache/fields.js";
import { plainRmsNorm, PlainRope, type RmsNorm } from "../block/parts.js";
import { ROPE_PART, rotaryOptions, type Rotary } from "./parts.js";

const MLA = schema("MultiHeadLatentAttention", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  numHeads: integer("Heads.", { min: 1 }),
  nopeDim: integer("Features of a query and key head without position.", { min: 1 }),
  ropeDim: integer("Features that rotate, even; the rotated key is shared by all heads.", { min: 1 }),
  vDim: integer("Features of a value head.", { min: 1 }),
  kvRank: integer("Size of the latent of keys and values.", { min: 1 }),
  qRank: integer("Size of the queries' latent; 0: none.", { min: 0, default: 0 }),
  ropeBase: number("Base of the rotation's frequencies.", { min: Number.MIN_VALUE, default: 10000 }),
  normEps: number("Added to the mean square in both norms.", { min: 0, default: 1e-6 }),
  bias: boolean("Biases of q_a_proj, kv_a_proj_with_mqa and o_proj (DeepSeek's attention_bias).", {
    default: false,
  }),
  scale: number("Factor of the scores; DeepSeek with YaRN: times yarnMscale(factor, mscale_all_dim)^2.", {
    defaultDoc: "(nopeDim + ropeDim)^-0.5",
  }),
});
export type MlaConfig = Config<typeof MLA>;

const PARTS = schema("MultiHeadLatentAttention: parts", {
  rope: ROPE_PART,
  rmsNorm: value(
    "Norm of the latents over the last axis.",
    "a function",
    (given: unknown): given is RmsNorm => typeof given === "function",
    { optional: true },
  ),
});
/** A rotation, such as `RotaryEmbedding` of @x/positional, and a norm, such as `rmsNorm` of @x/norm. */
export type MlaParts = Config<typeof PARTS>;

const OPTIONS = schema("MultiHeadLatentAttention.forward", {
  state: value(
    "Latents of the tokens so far, which the call adds to.",
    "a LatentCache",
    (given: unknown): given is LatentCache => given instanceof LatentCache,
    { optional: true },
  ),
  ...POSITION_FIELDS,
  form: oneOf(
    '"expanded" builds keys and values per head, cheaper for many queries; "absorbed" attends over the latents, and ' +
      "is what a state needs.",
    ["expanded", "absorbed"],
    { defaultDoc: "absorbed with a state that holds something, else expanded" },
  ),
  residual: tensor("Added to the output.", { optional: true }),
});
export type MlaOptions = Config<typeof OPTIONS>;

const STATE = schema("MultiHeadLatentAttention.createState", STATE_FIELDS);

export interface MlaOutputs {
  readonly out: Tensor;
  /** [batch, seq, kvRank], after the norm. */
  readonly latent: Tensor;
  /** [batch, seq, ropeDim], after the rotation. */
  readonly keyRope: Tensor;
}

const plainRotary = (rope: PlainRope): Rotary => ({
  applyQK: (q, k, options) => [rope.apply(q, options), rope.apply(k, options)],
});

/**
 * Multi-head latent attention: keys and values of all heads come from one small latent c = RMSNorm(a[:kvRank]) per
 * token, a = x WkvA^T, and position from one rotated key kR = rope(a[kvRank:]):
 * s_ij = scale (qN_i . kN_j + rope(qR_i) . kR_j), [kN | v] = c WkvB^T, out = merge(softmax_causal(s) v) Wo^T.
 *
 * Absorbed, with WK and WV the rows of WkvB of a head: s_ij = scale ((qN_i WK) . c_j + rope(qR_i) . kR_j) and
 * o_i = (sum_j p_ij c_j) WV^T: attention with one key head, whose keys [c | kR] are the cache itself.
 *
 * x [batch, seq, dim], f32 or f16. Parameters under DeepSeek's names: q_proj or q_a_proj, q_a_layernorm, q_b_proj; then
 * kv_a_proj_with_mqa, kv_a_layernorm, kv_b_proj, o_proj; matrices initially normal, norms ones, biases zeros. Without the
 * part `rope`, interleaved pairs rotate by `ropeBase`.
 * DeepSeek-V2, arXiv:2405.04434, section 2.1.
 */
export class MultiHeadLatentAttention extends Component<typeof MLA> implements Stateful<LatentCache> {
  static readonly schema = MLA;
  readonly #rope: Rotary;
  readonly #rmsNorm: RmsNorm;
  readonly #scale: number;

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: MlaConfig, parameters: Parameters, parts: MlaParts = {}) {
    super(MLA, config, MultiHeadLatentAttention.plan(config), parameters);
    const { rope, rmsNorm = plainRmsNorm } = PARTS.read(parts);
    const { nopeDim, ropeDim, ropeBase, scale = (nopeDim + ropeDim) ** -0.5 } = this.config;
    this.#scale = scale;
    const { gpu } = this.weights["o_proj.weight"]!;
    this.#rope = rope ?? plainRotary(this.own(new PlainRope(gpu, ropeDim, ropeBase)));
    this.#rmsNorm = rmsNorm;
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: MlaConfig): ParameterPlan {
    const { dim, numHeads, nopeDim, ropeDim, vDim, kvRank, qRank, bias } = MLA.read(config);
    const shift = (name: string, width: number): ParameterPlan =>
      bias ? { [`${name}.bias`]: zeros(width) } : {};
    if (ropeDim % 2 !== 0) throw new ConfigError(MLA.name, `ropeDim is ${ropeDim}; it must be even`);
    const queries = numHeads * (nopeDim + ropeDim);
    return {
      ...(qRank === 0
        ? { "q_proj.weight": matrix(queries, dim) }
        : {
            "q_a_proj.weight": matrix(qRank, dim),
            ...shift("q_a_proj", qRank),
            "q_a_layernorm.weight": ones(qRank),
            "q_b_proj.weight": matrix(queries, qRank),
          }),
      "kv_a_proj_with_mqa.weight": matrix(kvRank + ropeDim, dim),
      ...shift("kv_a_proj_with_mqa", kvRank + ropeDim),
      "kv_a_layernorm.weight": ones(kvRank),
      "kv_b_proj.weight": matrix(numHeads * (nopeDim + vDim), kvRank),
      "o_proj.weight": matrix(dim, numHeads * vDim, "output"),
      ...shift("o_proj", dim),
    };
  }

  /** An empty state for decoding. @throws ConfigError */
  createState(options: Config<typeof STATE>): LatentCache {
    const { kvRank, ropeDim } = this.config;
    return new LatentCache(this.weights["o_proj.weight"]!.gpu, { ...STATE.read(options), kvRank, ropeDim });
  }

  /** x [batch, seq, dim]; returns the same shape and dtype. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: MlaOptions = {}): Tensor {
    expectTensor(MLA.name, "x", x);
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /** The output, and what a state stores of each token. @throws ConfigError, ShapeError, DTypeError */
  outputs(x: Tensor, options: MlaOptions = {}): MlaOutputs {
    const { name: who } = MLA;
    const { state, positions, textLength, residual, ...rest } = OPTIONS.read(options, who);
    const { dim, numHeads, nopeDim, ropeDim, kvRank, normEps: eps } = this.config;
    const { seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { seq: number };
    if (residual) expectShape(who, "residual", residual, x.shape);
    for (const [name, given] of Object.entries({ positions, textLength }))
      if (given !== undefined && !state)
        throw new ConfigError(who, `${name} is given without a state; rows are then counted from 0`);
    const p = this.weights;
    // A recording is run again when the state holds more than now.
    const empty = state === undefined || (state.length === 0 && !x.gpu.recording);
    const { form = empty && (!state || seq > 1) ? "expanded" : "absorbed" } = rest;
    if (form === "expanded" && !empty)
      throw new ConfigError(
        who,
        "form is expanded; with a state that holds tokens, or in a recording, it must be absorbed",
      );
    return x.gpu.scope(() => {
      const positionIds = state?.place(seq, positions, {
        textLength,
        changes: (from, to) => this.#rope.changes?.(from, to) ?? false,
      });
      const { "q_a_proj.weight": down } = p;
      const compressed = down
        ? this.#rmsNorm(linear(x, down, p["q_a_proj.bias"]), { weight: p["q_a_layernorm.weight"]!, eps })
        : x;
      const q = splitHeads(compressed, numHeads, (p["q_b_proj.weight"] ?? p["q_proj.weight"])!);
      const [qN, qR] = split(q, [nopeDim, ropeDim]) as [Tensor, Tensor];
      const both = linear(x, p["kv_a_proj_with_mqa.weight"]!, p["kv_a_proj_with_mqa.bias"]);
      const [a, r] = split(both, [kvRank, ropeDim]) as [Tensor, Tensor];
      const latent = this.#rmsNorm(a, { weight: p["kv_a_layernorm.weight"]!, eps });
      const [queryRope, keyRope] = this.#rope.applyQK(
        qR,
        r.reshape([...r.shape.slice(0, 2), 1, ropeDim]),
        rotaryOptions({
          positionIds,
          seqLen: state?.textLength ?? seq,
          maxPositions: state?.config.maxLength ?? seq,
        }),
      );
      const rows = (): Tensor =>
        concat([latent.reshape([...latent.shape.slice(0, 2), 1, kvRank]), keyRope], 3);
      const where = state && positionIds ? state.append(rows(), positionIds) : undefined;
      const o =
        form === "expanded"
          ? this.#expanded(qN, queryRope, latent, keyRope, where?.query)
          : this.#absorbed(qN, queryRope, state ? state.rows : rows(), where);
      return {
        out: mergeHeads(o, p["o_proj.weight"]!, p["o_proj.bias"], residual),
        latent,
        keyRope: keyRope.reshape([...r.shape]),
      };
    });
  }

  /** Keys and values per head. */
  #expanded(qN: Tensor, qR: Tensor, latent: Tensor, keyRope: Tensor, positions: Tensor | undefined): Tensor {
    const { numHeads, nopeDim, ropeDim, vDim } = this.config;
    const [kN, v] = split(splitHeads(latent, numHeads, this.weights["kv_b_proj.weight"]!), [
      nopeDim,
      vDim,
    ]) as [Tensor, Tensor];
    const kR = broadcastTo(keyRope, [...kN.shape.slice(0, 3), ropeDim]);
    return attention(concat([qN, qR], 3), concat([kN, kR], 3), v, {
      causal: true,
      layout: "bshd",
      scale: this.#scale,
      ...(positions ? { positions: { query: positions, key: positions } } : {}),
    });
  }

  /** One key head: the latents and rotated keys as they lie in the cache, [batch, keys, 1, kvRank + ropeDim]. */
  #absorbed(
    qN: Tensor,
    qR: Tensor,
    rows: Tensor,
    positions: { query: Tensor; key: Tensor } | undefined,
  ): Tensor {
    const { numHeads, nopeDim, vDim, kvRank } = this.config;
    const [batch, seq] = qN.shape as [number, number];
    // Both products take whole heads [nopeDim + vDim, kvRank] of WkvB, the queries padded with zeros and the surplus
    // of the result cut off: that is less to move than the weights' parts.
    const heads = this.weights["kv_b_proj.weight"]!.reshape([numHeads, nopeDim + vDim, kvRank]);
    const byHead = (t: Tensor): Tensor =>
      transpose(t, [2, 0, 1, 3]).reshape([numHeads, batch * seq, t.shape[3]!]);
    const back = (t: Tensor): Tensor =>
      transpose(t.reshape([numHeads, batch, seq, t.shape[2]!]), [1, 2, 0, 3]);
    const query = back(matmul(byHead(pad(qN, 3, 0, vDim)), heads));
    // The values are the first kvRank numbers of the same rows: read in place, and the rest of the result dropped.
    const mixed = attention(concat([query, qR], 3), rows, rows, {
      causal: true,
      layout: "bshd",
      scale: this.#scale,
      ...(positions ? { positions } : {}),
    });
    const latents = slice(mixed, { axis: 3, end: kvRank });
    return slice(back(matmul(byHead(latents), heads, { transposeB: true })), { axis: 3, start: nopeDim });
  }
}
