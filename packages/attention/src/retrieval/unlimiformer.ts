import {
  add,
  boolean,
  cast,
  Component,
  e,
  elementwise,
  expectDType,
  expectShape,
  expectTensor,
  integer,
  matmul,
  matrix,
  mul,
  schema,
  slice,
  stopGradient,
  tensor,
  transpose,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type PlannedParameter,
  type Tensor,
} from "@x/kernels";
import { gatheredAttention } from "./gathered_attention.js";
import { mergeHeads, splitHeads } from "../block/heads.js";
import { topkSearch } from "./topk_search.js";

const UNLIMIFORMER = schema("UnlimiformerAttention", {
  dim: integer("Width of x, of the encoder states and of the output.", { min: 1 }),
  numHeads: integer("Heads.", { min: 1 }),
  headDim: integer("Features of a head.", { min: 1 }),
  topK: integer("Encoder states that each query and head attends to.", { min: 1 }),
  bias: boolean("Biases of all four projections.", { default: false }),
});
export type UnlimiformerConfig = Config<typeof UNLIMIFORMER>;

const OPTIONS = schema("UnlimiformerAttention.forward", {
  context: tensor("The encoder states, [batch, states, dim]."),
  keyMask: tensor("i32 [batch, states]: 1 keeps.", { optional: true }),
  retrieved: tensor(
    "i32 [batch, numHeads, seq, k]: states that another index found for `queries`, -1 for none.",
    { optional: true },
  ),
  residual: tensor("Added to the output.", { optional: true }),
});
export type UnlimiformerOptions = Config<typeof OPTIONS>;

const isFound = elementwise("isFound", ["index"], (index) => e.select(e.lt(index, 0), 0, 1));

/**
 * Unlimiformer's cross-attention: q . (Wk_h h_e) = (q Wk_h) . h_e, so the encoder states h_e are searched and attended
 * to themselves, and keys and values are never stored: r_ij = (q_i Wk_h) . h_j, the topK best per query and head,
 * o = (sum_j p_j h_j) Wv_h^T + bv_h with p = softmax(headDim^-0.5 r). The states serve every layer and head.
 *
 * x [batch, seq, dim] and context [batch, states, dim], f32. Parameters q_proj, k_proj, v_proj, o_proj (`.weight`,
 * initially normal; `.bias`, initially zeros); the keys' bias shifts whole rows and has no effect. Bertsch et al. 2023, arXiv:2305.01625, section 2.
 */
export class UnlimiformerAttention extends Component<typeof UNLIMIFORMER> {
  static readonly schema = UNLIMIFORMER;

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: UnlimiformerConfig, parameters: Parameters) {
    super(UNLIMIFORMER, config, UnlimiformerAttention.plan(config), parameters);
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: UnlimiformerConfig): ParameterPlan {
    const { dim, numHeads, headDim, bias } = UNLIMIFORMER.read(config);
    const inner = numHeads * headDim;
    const projection = (
      name: string,
      out: number,
      into: number,
      role?: PlannedParameter["role"],
    ): ParameterPlan => ({
      [`${name}.weight`]: matrix(out, into, role),
      ...(bias ? { [`${name}.bias`]: zeros(out) } : {}),
    });
    return {
      ...projection("q_proj", inner, dim),
      ...projection("k_proj", inner, dim),
      ...projection("v_proj", inner, dim, "value"),
      ...projection("o_proj", dim, inner, "output"),
    };
  }

  /** Bytes that an encoder state takes, once for all layers and heads: dim numbers. */
  get bytesPerState(): number {
    return this.config.dim * 4;
  }

  /**
   * q Wk_h for each head, [batch, numHeads, seq, dim], to look up in an index of encoder states.
   *
   * @throws ShapeError, DTypeError
   */
  queries(x: Tensor): Tensor {
    const { numHeads, headDim, dim } = this.config;
    expectShape(UNLIMIFORMER.name, "x", x, ["batch", "seq", dim]);
    const p = this.weights;
    return x.gpu.scope(() => {
      const q = splitHeads(x, numHeads, p["q_proj.weight"]!, p["q_proj.bias"]);
      return matmul(transpose(q, [0, 2, 1, 3]), p["k_proj.weight"]!.reshape([numHeads, headDim, dim]));
    });
  }

  /** x [batch, seq, dim]; returns the same shape. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: UnlimiformerOptions): Tensor {
    expectTensor(UNLIMIFORMER.name, "x", x);
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /**
   * The output, and the states chosen, i32 [batch, numHeads, seq, min(topK, states)] in rising order, then -1.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  outputs(x: Tensor, options: UnlimiformerOptions): { out: Tensor; indices: Tensor } {
    const { name: who } = UNLIMIFORMER;
    const { context, keyMask, retrieved, residual } = OPTIONS.read(options, who);
    const { dim, numHeads, headDim, topK } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    const { states } = expectShape(who, "context", context, [batch, "states", dim]) as { states: number };
    if (keyMask) {
      expectShape(who, "keyMask", keyMask, [batch, states]);
      expectDType(who, "keyMask", keyMask, "i32");
    }
    if (retrieved) {
      expectShape(who, "retrieved", retrieved, [batch, numHeads, seq, null]);
      expectDType(who, "retrieved", retrieved, "i32");
    }
    if (residual) expectShape(who, "residual", residual, x.shape);
    const p = this.weights;
    return x.gpu.scope(() => {
      const queries = this.queries(x);
      const indices =
        retrieved ??
        topkSearch(stopGradient(queries).reshape([batch, numHeads * seq, dim]), stopGradient(context), topK, {
          keyMask,
        }).indices.reshape([batch, numHeads, seq, Math.min(topK, states)]);
      const store = context.reshape([batch, 1, states, dim]);
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
}
