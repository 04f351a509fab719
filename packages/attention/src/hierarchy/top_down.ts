import {
  cast,
  Component,
  div,
  e,
  elementwise,
  expectDType,
  expectShape,
  expectTensor,
  gather,
  integer,
  mul,
  ones,
  schema,
  sum,
  tensor,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import {
  BLOCK_FIELDS,
  blockContext,
  blockPlan,
  blocks,
  contextHeads,
  expectTokens,
  layersOf,
  layersPlan,
  type Attend,
  type BlockContext,
} from "../block/block.js";
import { attention } from "../engine/attention.js";
import { hideRows } from "../block/hidden_rows.js";
import type { Parts } from "../block/parts.js";

const TOP_DOWN = schema("TopDownTransformer", {
  ...BLOCK_FIELDS,
  bottomLayers: integer("Local layers before the pooling.", { min: 0 }),
  topLayers: integer("Layers of the units.", { min: 0 }),
  downLayers: integer("Local layers after it, with cross-attention to the units.", { min: 0 }),
  left: integer("Local attention: keys before the query; -1: all.", { min: -1 }),
  right: integer("Local attention: keys after the query; -1: all.", { min: -1 }),
  poolKernel: integer("Tokens that a unit covers.", { min: 1 }),
  poolStride: integer("Tokens from one unit to the next.", { min: 1 }),
});
export type TopDownConfig = Config<typeof TOP_DOWN>;

const OPTIONS = schema("TopDownTransformer.forward", {
  keyMask: tensor("i32 [batch, seq]: 1 is a token, 0 padding.", { optional: true }),
  poolWeights: tensor("f32 [batch, seq], at least 0: importance of each token in its unit; default 1.", {
    optional: true,
  }),
});
export type TopDownOptions = Config<typeof OPTIONS>;

const isLive = elementwise("isLive", ["total"], (total) => e.select(e.lt(0, total), 1, 0));
const nonZero = elementwise("nonZero", ["total"], (total) => e.select(e.lt(0, total), total, 1));

/**
 * Top-Down Transformer (an encoder): local attention over tokens; tokens pooled to units, which see each other; units
 * handed back to the tokens by cross-attention, so that tokens far apart meet at a cost linear in the length.
 * Unit u covers tokens u poolStride .. u poolStride + poolKernel - 1: s_u = sum w_i e_i / sum w_i; one whose weights
 * sum to 0 is zero and hidden.
 *
 * x [batch, seq, dim], f32. Parameters bottom.<l>.*, top.<l>.*, top_norm, down.<l>.* (with cross_attn), norm; matrices
 * initially normal, norms ones.
 * Pang et al. 2022, arXiv:2203.07586, section 2.
 */
export class TopDownTransformer extends Component<typeof TOP_DOWN> {
  static readonly schema = TOP_DOWN;
  readonly #block: BlockContext;
  readonly #layers: {
    readonly bottom: Parameters[];
    readonly top: Parameters[];
    readonly down: Parameters[];
  };

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: TopDownConfig, parameters: Parameters, parts: Parts = {}) {
    super(TOP_DOWN, config, TopDownTransformer.plan(config), parameters);
    const { bottomLayers, topLayers, downLayers } = this.config;
    this.#block = blockContext(TOP_DOWN.name, this.config, parts);
    this.#layers = {
      bottom: layersOf(this.weights, "bottom", bottomLayers),
      top: layersOf(this.weights, "top", topLayers),
      down: layersOf(this.weights, "down", downLayers),
    };
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: TopDownConfig): ParameterPlan {
    const { dim, bottomLayers, topLayers, downLayers } = TOP_DOWN.read(config);
    return {
      ...layersPlan("bottom", bottomLayers, blockPlan(config)),
      ...layersPlan("top", topLayers, blockPlan(config)),
      "top_norm.weight": ones(dim),
      ...layersPlan("down", downLayers, blockPlan(config, true)),
      "norm.weight": ones(dim),
    };
  }

  /** x [batch, seq, dim]; returns the same shape. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: TopDownOptions = {}): Tensor {
    expectTensor(TOP_DOWN.name, "x", x);
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /**
   * The tokens' rows [batch, seq, dim] and those of the units, [batch, units, dim].
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  outputs(x: Tensor, options: TopDownOptions = {}): { out: Tensor; top: Tensor } {
    const { name: who } = TOP_DOWN;
    const { keyMask, poolWeights } = OPTIONS.read(options, who);
    const { dim, left, right } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    expectTokens(who, seq);
    if (keyMask) {
      expectShape(who, "keyMask", keyMask, [batch, seq]);
      expectDType(who, "keyMask", keyMask, "i32");
    }
    if (poolWeights) {
      expectShape(who, "poolWeights", poolWeights, [batch, seq]);
      expectDType(who, "poolWeights", poolWeights, "f32");
    }
    const { norm } = this.#block;
    const local: Attend = (q, k, v) =>
      attention(q, k, v, { layout: "bshd", window: { left, right }, queryOffset: 0, keyMask });
    return x.gpu.scope(() => {
      const bottom = blocks(x, this.#layers.bottom, this.#block, local);
      const { units, live } = this.#pool(bottom, keyMask, poolWeights);
      const toUnits: Attend = (q, k, v) => attention(q, k, v, { layout: "bshd", keyMask: live });
      const top = norm(
        blocks(units, this.#layers.top, this.#block, toUnits),
        this.weights["top_norm.weight"]!,
      );
      const down = blocks(bottom, this.#layers.down, this.#block, local, (q, p) => {
        const { keys, values } = contextHeads(top, p, this.#block);
        return toUnits(q, keys, values);
      });
      return { out: norm(down, this.weights["norm.weight"]!), top };
    });
  }

  /** Weighted means over the units' spans, and which units have any weight (i32 [batch, units]). */
  #pool(
    h: Tensor,
    keyMask: Tensor | undefined,
    poolWeights: Tensor | undefined,
  ): { units: Tensor; live: Tensor } {
    const { gpu } = h;
    const { poolKernel, poolStride } = this.config;
    const [batch, seq, dim] = h.shape as [number, number, number];
    const units = Math.max(1, Math.ceil((seq - poolKernel) / poolStride) + 1);
    // A span's tokens by number; what lies past the end counts with weight 0.
    const token = (i: number): number => Math.floor(i / poolKernel) * poolStride + (i % poolKernel);
    const count = units * poolKernel;
    const ids = gpu.tensor(
      Int32Array.from({ length: count }, (_, i) => Math.min(token(i), seq - 1)),
      [units, poolKernel],
      "i32",
    );
    let weights: Tensor = gpu.tensor(
      Float32Array.from({ length: count }, (_, i) => (token(i) < seq ? 1 : 0)),
      [units, poolKernel],
    );
    if (keyMask) weights = mul(weights, gather(cast(keyMask, "f32"), ids, 1));
    if (poolWeights) weights = mul(weights, gather(poolWeights, ids, 1));
    if (weights.rank === 2) weights = weights.reshape([1, units, poolKernel]);
    const total = sum(weights, { axes: 2 }); // [batch or 1, units]
    const spans = gather(hideRows(TOP_DOWN.name, h, keyMask), ids, 1); // [batch, units, poolKernel, dim]
    const sums = sum(mul(spans, weights.reshape([...weights.shape, 1])), { axes: 2 });
    const live = mul(gpu.full([batch, 1], 1), isLive(total));
    return {
      units: div(sums, nonZero(total).reshape([...total.shape, 1])).reshape([batch, units, dim]),
      live: cast(live, "i32"),
    };
  }
}
