import {
  add,
  cast,
  checkConfig,
  e,
  elementwise,
  expectBoolean,
  expectInteger,
  expectShape,
  matmul,
  mul,
  slice,
  stopGradient,
  transpose,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { gatheredAttention } from "./gathered_attention.js";
import { mergeHeads, splitHeads } from "../block/heads.js";
import {
  checkParameters,
  initParameters,
  matrix,
  zeros,
  type InitOptions,
  type ParameterPlan,
  type Plan,
} from "../parameters.js";
import { topkSearch } from "./topk_search.js";

export interface UnlimiformerConfig {
  readonly dim: number;
  readonly numHeads: number;
  readonly headDim: number;
  /** Encoder states that each query and head attends to. */
  readonly topK: number;
  /** Biases of all four projections; default false. */
  readonly bias?: boolean;
}

export interface UnlimiformerOptions {
  /** i32 [batch, states]: 1 keeps. */
  readonly keyMask?: Tensor | undefined;
  /** i32 [batch, numHeads, seq, k]: states that an index of your own found for `queries`, -1 for none. */
  readonly retrieved?: Tensor | undefined;
  /** Added to the output. */
  readonly residual?: Tensor | undefined;
}

const isFound = elementwise("isFound", ["index"], (index) => e.select(e.lt(index, 0), 0, 1));

/**
 * Unlimiformer's cross-attention: q . (Wk_h h_e) = (q Wk_h) . h_e, so the encoder states h_e are searched and attended
 * to themselves, and keys and values are never stored: r_ij = (q_i Wk_h) . h_j, the topK best per query and head,
 * o = (sum_j p_j h_j) Wv_h^T + bv_h with p = softmax(headDim^-0.5 r). The states serve every layer and head.
 *
 * x [batch, seq, dim] and hidden [batch, states, dim]. Parameters q_proj, k_proj, v_proj, o_proj (`.weight`, `.bias`);
 * the keys' bias shifts whole rows and has no effect. Bertsch et al. 2023, arXiv:2305.01625, section 2.
 */
export class UnlimiformerAttention implements Module {
  readonly config: UnlimiformerConfig;
  readonly #p: Record<string, Tensor>;

  /** @throws ConfigError */
  constructor(config: UnlimiformerConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("UnlimiformerAttention", UnlimiformerAttention.plan(config), parameters);
    this.config = config;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: UnlimiformerConfig): Plan {
    const who = "UnlimiformerAttention";
    checkConfig(who, config, ["dim", "numHeads", "headDim", "topK", "bias"]);
    const { dim, numHeads, headDim, topK, bias = false } = config;
    for (const [name, n] of Object.entries({ dim, numHeads, headDim, topK })) expectInteger(who, name, n, 1);
    expectBoolean(who, "bias", bias);
    const inner = numHeads * headDim;
    const projection = (name: string, out: number, into: number): Record<string, ParameterPlan> => ({
      [`${name}.weight`]: matrix(out, into),
      ...(bias ? { [`${name}.bias`]: zeros(out) } : {}),
    });
    return {
      ...projection("q_proj", inner, dim),
      ...projection("k_proj", inner, dim),
      ...projection("v_proj", inner, dim),
      ...projection("o_proj", dim, inner),
    };
  }

  /** Normal matrices, zero biases. */
  static init(gpu: Gpu, config: UnlimiformerConfig, options: InitOptions): UnlimiformerAttention {
    const plan = UnlimiformerAttention.plan(config);
    return new UnlimiformerAttention(config, initParameters("UnlimiformerAttention", gpu, plan, options));
  }

  /** Bytes that an encoder state takes, once for all layers and heads: dim numbers. */
  get bytesPerState(): number {
    return this.config.dim * 4;
  }

  /** q Wk_h for each head, [batch, numHeads, seq, dim], to look up in an index of encoder states. */
  queries(x: Tensor): Tensor {
    const { numHeads, headDim, dim } = this.config;
    return x.gpu.scope(() => {
      const q = transpose(
        splitHeads(x, numHeads, this.#p["q_proj.weight"]!, this.#p["q_proj.bias"]),
        [0, 2, 1, 3],
      );
      return matmul(q, this.#p["k_proj.weight"]!.reshape([numHeads, headDim, dim]));
    });
  }

  forward(x: Tensor, hidden: Tensor, options: UnlimiformerOptions = {}): Tensor {
    return x.gpu.scope(() => this.outputs(x, hidden, options).out);
  }

  /** The output, and the states chosen, i32 [batch, numHeads, seq, min(topK, states)] in rising order, then -1. */
  outputs(x: Tensor, hidden: Tensor, options: UnlimiformerOptions = {}): { out: Tensor; indices: Tensor } {
    const who = "UnlimiformerAttention";
    checkConfig(who, options, ["keyMask", "retrieved", "residual"]);
    const { dim, numHeads, headDim, topK } = this.config;
    const { keyMask, retrieved, residual } = options;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    const { states } = expectShape(who, "hidden", hidden, [batch, "states", dim]) as { states: number };
    if (retrieved) expectShape(who, "retrieved", retrieved, [batch, numHeads, seq, null]);
    const p = this.#p;
    return x.gpu.scope(() => {
      const queries = this.queries(x);
      const indices =
        retrieved ??
        topkSearch(stopGradient(queries).reshape([batch, numHeads * seq, dim]), stopGradient(hidden), topK, {
          keyMask,
        }).indices.reshape([batch, numHeads, seq, Math.min(topK, states)]);
      const store = hidden.reshape([batch, 1, states, dim]);
      const { out: mixed } = gatheredAttention(queries, store, store, indices, { scale: headDim ** -0.5 });
      const weights = p["v_proj.weight"]!.reshape([numHeads, headDim, dim]);
      let o = matmul(mixed, weights, { transposeB: true }); // [batch, numHeads, seq, headDim]
      const bias = p["v_proj.bias"];
      if (bias) {
        const found = isFound(cast(slice(indices, { axis: 3, end: 1 }), "f32"));
        o = add(o, mul(bias.reshape([numHeads, 1, headDim]), found));
      }
      return {
        out: mergeHeads(transpose(o, [0, 2, 1, 3]), p["o_proj.weight"]!, p["o_proj.bias"], residual),
        indices,
      };
    });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}
