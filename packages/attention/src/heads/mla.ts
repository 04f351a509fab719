import {
  broadcastTo,
  checkConfig,
  concat,
  ConfigError,
  expectInteger,
  expectNumber,
  expectOneOf,
  expectShape,
  linear,
  matmul,
  pad,
  slice,
  split,
  transpose,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { attention } from "../engine/attention.js";
import { mergeHeads, splitHeads } from "./heads.js";
import { LatentCache, type LatentCacheConfig } from "../cache/latent_cache.js";
import { checkParameters, initParameters, matrix, ones, type InitOptions, type Plan } from "../parameters.js";
import { plainRmsNorm, PlainRope, type Parts, type RmsNorm, type Rope } from "../block/parts.js";
import type { TokenPositions } from "../cache/slots.js";

export interface MlaConfig {
  readonly dim: number;
  readonly numHeads: number;
  /** Features of a query and key head without position. */
  readonly nopeDim: number;
  /** Features that rotate; the rotated key is shared by all heads. Even. */
  readonly ropeDim: number;
  readonly vDim: number;
  /** Size of the latent of keys and values. */
  readonly kvRank: number;
  /** Size of the queries' latent; 0 (default): none. */
  readonly qRank?: number;
  /** Default 10000. */
  readonly ropeBase?: number;
  /** Default 1e-6. */
  readonly normEps?: number;
  /** Default (nopeDim + ropeDim)^-0.5. */
  readonly scale?: number;
}

export interface MlaOptions {
  readonly cache?: LatentCache | undefined;
  /** With a cache; default: counted on. */
  readonly positions?: TokenPositions;
  /**
   * With a cache: tokens of the whole text that the call belongs to; default: counted. Needed where positions are on
   * the device and the rotation depends on it.
   */
  readonly textLength?: number | undefined;
  /**
   * "expanded" builds keys and values per head, cheaper for many queries; "absorbed" attends over the latents, and is
   * what a cache needs. Default: absorbed with a cache that holds something, else expanded.
   */
  readonly form?: "expanded" | "absorbed";
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
}

export interface MlaOutputs {
  readonly out: Tensor;
  /** [batch, seq, kvRank], after the norm. */
  readonly latent: Tensor;
  /** [batch, seq, ropeDim], after the rotation. */
  readonly keyRope: Tensor;
}

/**
 * Multi-head latent attention: keys and values of all heads come from one small latent c = RMSNorm(a[:kvRank]) per
 * token, a = x WkvA^T, and position from one rotated key kR = rope(a[kvRank:]):
 * s_ij = scale (qN_i . kN_j + rope(qR_i) . kR_j), [kN | v] = c WkvB^T, out = merge(softmax_causal(s) v) Wo^T.
 *
 * Absorbed, with WK and WV the rows of WkvB of a head: s_ij = scale ((qN_i WK) . c_j + rope(qR_i) . kR_j) and
 * o_i = (sum_j p_ij c_j) WV^T: attention with one key head, whose keys [c | kR] are the cache itself.
 *
 * x [batch, seq, dim]. Parameters under DeepSeek's names: q_proj or q_a_proj, q_a_layernorm, q_b_proj; then
 * kv_a_proj_with_mqa, kv_a_layernorm, kv_b_proj, o_proj. Rotation of interleaved pairs.
 * DeepSeek-V2, arXiv:2405.04434, section 2.1.
 */
export class MultiHeadLatentAttention implements Module {
  readonly config: MlaConfig;
  readonly #p: Record<string, Tensor>;
  readonly #rope: Rope;
  readonly #ownsRope: boolean;
  readonly #rmsNorm: RmsNorm;
  readonly #scale: number;

  /** @throws ConfigError */
  constructor(gpu: Gpu, config: MlaConfig, parameters: Readonly<Record<string, Tensor>>, parts: Parts = {}) {
    this.#p = checkParameters("MultiHeadLatentAttention", MultiHeadLatentAttention.plan(config), parameters);
    this.config = config;
    this.#scale = config.scale ?? (config.nopeDim + config.ropeDim) ** -0.5;
    this.#rope = parts.rope ?? new PlainRope(gpu, config.ropeDim, config.ropeBase ?? 10000);
    this.#ownsRope = parts.rope === undefined;
    this.#rmsNorm = parts.rmsNorm ?? plainRmsNorm;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: MlaConfig): Plan {
    const who = "MultiHeadLatentAttention";
    checkConfig(who, config, [
      "dim",
      "numHeads",
      "nopeDim",
      "ropeDim",
      "vDim",
      "kvRank",
      "qRank",
      "ropeBase",
      "normEps",
      "scale",
    ]);
    const { dim, numHeads, nopeDim, ropeDim, vDim, kvRank, qRank = 0, ropeBase = 10000 } = config;
    for (const [name, n] of Object.entries({ dim, numHeads, nopeDim, ropeDim, vDim, kvRank }))
      expectInteger(who, name, n, 1);
    if (ropeDim % 2 !== 0) throw new ConfigError(who, `ropeDim is ${ropeDim}; it must be even`);
    expectInteger(who, "qRank", qRank, 0);
    expectNumber(who, "ropeBase", ropeBase, Number.MIN_VALUE);
    if (config.normEps !== undefined) expectNumber(who, "normEps", config.normEps, 0);
    if (config.scale !== undefined) expectNumber(who, "scale", config.scale);
    const queries = numHeads * (nopeDim + ropeDim);
    return {
      ...(qRank === 0
        ? { "q_proj.weight": matrix(queries, dim) }
        : {
            "q_a_proj.weight": matrix(qRank, dim),
            "q_a_layernorm.weight": ones(qRank),
            "q_b_proj.weight": matrix(queries, qRank),
          }),
      "kv_a_proj_with_mqa.weight": matrix(kvRank + ropeDim, dim),
      "kv_a_layernorm.weight": ones(kvRank),
      "kv_b_proj.weight": matrix(numHeads * (nopeDim + vDim), kvRank),
      "o_proj.weight": matrix(dim, numHeads * vDim),
    };
  }

  /** Normal matrices, norms of ones. */
  static init(
    gpu: Gpu,
    config: MlaConfig,
    options: InitOptions,
    parts: Parts = {},
  ): MultiHeadLatentAttention {
    const plan = MultiHeadLatentAttention.plan(config);
    return new MultiHeadLatentAttention(
      gpu,
      config,
      initParameters("MultiHeadLatentAttention", gpu, plan, options),
      parts,
    );
  }

  createCache(gpu: Gpu, options: Pick<LatentCacheConfig, "batch" | "maxLength" | "dtype">): LatentCache {
    return new LatentCache(gpu, { ...options, kvRank: this.config.kvRank, ropeDim: this.config.ropeDim });
  }

  forward(x: Tensor, options: MlaOptions = {}): Tensor {
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /** The output, and what a cache stores of each token. */
  outputs(x: Tensor, options: MlaOptions = {}): MlaOutputs {
    const who = "MultiHeadLatentAttention";
    checkConfig(who, options, ["cache", "positions", "textLength", "form", "residual"]);
    const { dim, numHeads, nopeDim, ropeDim, kvRank, normEps: eps = 1e-6 } = this.config;
    const { cache, residual } = options;
    const { seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { seq: number };
    for (const name of ["positions", "textLength"] as const)
      if (options[name] !== undefined && !cache)
        throw new ConfigError(who, `${name} is given without a cache; rows are then counted from 0`);
    const p = this.#p;
    const form = options.form ?? (cache && !(cache.length === 0 && seq > 1) ? "absorbed" : "expanded");
    expectOneOf(who, "form", form, ["expanded", "absorbed"]);
    if (form === "expanded" && cache && cache.length !== 0)
      throw new ConfigError(who, "form is expanded; with a cache that holds tokens it must be absorbed");
    return x.gpu.scope(() => {
      const positionIds = cache?.place(seq, options.positions, {
        textLength: options.textLength,
        changes: (from, to) => this.#rope.changes?.(from, to) ?? false,
      });
      const turn = (t: Tensor): Tensor =>
        this.#rope.apply(t, {
          layout: "bshd",
          seqLen: cache?.textLength ?? seq,
          ...(positionIds && cache ? { positionIds, maxPositions: cache.config.maxLength } : {}),
        });
      const compressed = p["q_a_proj.weight"]
        ? this.#rmsNorm(linear(x, p["q_a_proj.weight"]), { weight: p["q_a_layernorm.weight"]!, eps })
        : x;
      const q = splitHeads(compressed, numHeads, (p["q_b_proj.weight"] ?? p["q_proj.weight"])!);
      const [qN, qR] = split(q, [nopeDim, ropeDim]) as [Tensor, Tensor];
      const [a, r] = split(linear(x, p["kv_a_proj_with_mqa.weight"]!), [kvRank, ropeDim]) as [Tensor, Tensor];
      const latent = this.#rmsNorm(a, { weight: p["kv_a_layernorm.weight"]!, eps });
      const keyRope = turn(r.reshape([...r.shape.slice(0, 2), 1, ropeDim]));
      const rows = (): Tensor =>
        concat([latent.reshape([...latent.shape.slice(0, 2), 1, kvRank]), keyRope], 3);
      const where = cache && positionIds ? cache.append(rows(), positionIds) : undefined;
      const o =
        form === "expanded"
          ? this.#expanded(qN, turn(qR), latent, keyRope, where?.query)
          : this.#absorbed(qN, turn(qR), cache ? cache.rows : rows(), where);
      return {
        out: mergeHeads(o, p["o_proj.weight"]!, undefined, residual),
        latent,
        keyRope: keyRope.reshape([...r.shape]),
      };
    });
  }

  /** Keys and values per head. */
  #expanded(qN: Tensor, qR: Tensor, latent: Tensor, keyRope: Tensor, positions: Tensor | undefined): Tensor {
    const { numHeads, nopeDim, ropeDim, vDim } = this.config;
    const [kN, v] = split(splitHeads(latent, numHeads, this.#p["kv_b_proj.weight"]!), [nopeDim, vDim]) as [
      Tensor,
      Tensor,
    ];
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
    const heads = this.#p["kv_b_proj.weight"]!.reshape([numHeads, nopeDim + vDim, kvRank]);
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

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }

  /** Free the rotation's tables. */
  dispose(): void {
    if (this.#ownsRope) this.#rope.dispose?.();
  }
}
