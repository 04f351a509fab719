import {
  cast,
  checkConfig,
  div,
  e,
  elementwise,
  expectDType,
  expectInteger,
  expectShape,
  gather,
  mul,
  subParameters,
  sum,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import {
  block,
  blockContext,
  blockPlan,
  checkBlockConfig,
  contextHeads,
  expectLayers,
  expectTokens,
  layersPlan,
  type Attend,
  type BlockConfig,
  type BlockContext,
} from "../block/block.js";
import { attention } from "../engine/attention.js";
import { hideRows } from "../block/hidden_rows.js";
import { checkParameters, initParameters, ones, type InitOptions, type Plan } from "../parameters.js";
import type { Parts } from "../block/parts.js";

export interface TopDownConfig extends BlockConfig {
  readonly bottomLayers: number;
  readonly topLayers: number;
  readonly downLayers: number;
  /** Local attention: keys to see beside the own one on each side. */
  readonly left: number;
  readonly right: number;
  /** Tokens that a unit covers, and from one unit to the next. */
  readonly poolKernel: number;
  readonly poolStride: number;
}

export interface TopDownOptions {
  /** i32 [batch, seq]: 1 is a token, 0 padding. */
  readonly keyMask?: Tensor | undefined;
  /** f32 [batch, seq], at least 0: importance of each token in its unit; default 1. */
  readonly poolWeights?: Tensor | undefined;
}

const isLive = elementwise("isLive", ["total"], (total) => e.select(e.lt(0, total), 1, 0));
const nonZero = elementwise("nonZero", ["total"], (total) => e.select(e.lt(0, total), total, 1));

/**
 * Top-Down Transformer (an encoder): local attention over tokens; tokens pooled to units, which see each other; units
 * handed back to the tokens by cross-attention, so that tokens far apart meet at a cost linear in the length.
 * Unit u covers tokens u poolStride .. u poolStride + poolKernel - 1: s_u = sum w_i e_i / sum w_i; one whose weights
 * sum to 0 is zero and hidden.
 *
 * x [batch, seq, dim]. Parameters bottom.<l>.*, top.<l>.*, top_norm, down.<l>.* (with cross_attn), norm.
 * Pang et al. 2022, arXiv:2203.07586, section 2.
 */
export class TopDownTransformer implements Module {
  readonly config: TopDownConfig;
  readonly #p: Record<string, Tensor>;
  readonly #block: BlockContext;

  /** @throws ConfigError */
  constructor(config: TopDownConfig, parameters: Readonly<Record<string, Tensor>>, parts: Parts = {}) {
    this.#block = blockContext(config, parts);
    this.#p = checkParameters("TopDownTransformer", TopDownTransformer.plan(config), parameters);
    this.config = config;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: TopDownConfig): Plan {
    const who = "TopDownTransformer";
    checkBlockConfig(who, config, [
      "bottomLayers",
      "topLayers",
      "downLayers",
      "left",
      "right",
      "poolKernel",
      "poolStride",
    ]);
    const { dim, bottomLayers, topLayers, downLayers, left, right, poolKernel, poolStride } = config;
    expectLayers(who, { bottomLayers, topLayers, downLayers }, 0);
    expectInteger(who, "left", left, -1);
    expectInteger(who, "right", right, -1);
    expectLayers(who, { poolKernel, poolStride });
    return {
      ...layersPlan("bottom", bottomLayers, blockPlan(config)),
      ...layersPlan("top", topLayers, blockPlan(config)),
      "top_norm.weight": ones(dim),
      ...layersPlan("down", downLayers, blockPlan(config, true)),
      "norm.weight": ones(dim),
    };
  }

  /** Normal matrices, norms of ones. */
  static init(gpu: Gpu, config: TopDownConfig, options: InitOptions, parts: Parts = {}): TopDownTransformer {
    const plan = TopDownTransformer.plan(config);
    return new TopDownTransformer(config, initParameters("TopDownTransformer", gpu, plan, options), parts);
  }

  /** The tokens' rows [batch, seq, dim] and the units' [batch, units, dim]. */
  forward(x: Tensor, options: TopDownOptions = {}): { out: Tensor; top: Tensor } {
    const who = "TopDownTransformer";
    checkConfig(who, options, ["keyMask", "poolWeights"]);
    const { keyMask, poolWeights } = options;
    const { dim, left, right, bottomLayers, topLayers, downLayers } = this.config;
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
    const local: Attend = (q, k, v) =>
      attention(q, k, v, { layout: "bshd", window: { left, right }, queryOffset: 0, keyMask });
    return x.gpu.scope(() => {
      let h = x;
      for (let l = 0; l < bottomLayers; l++) h = block(h, this.#layer("bottom", l), this.#block, local);
      const pooled = this.#pool(h, keyMask, poolWeights);
      const { live } = pooled;
      let top = pooled.units;
      for (let l = 0; l < topLayers; l++)
        top = block(top, this.#layer("top", l), this.#block, (q, k, v) =>
          attention(q, k, v, { layout: "bshd", keyMask: live }),
        );
      top = this.#block.norm(top, this.#p["top_norm.weight"]!);
      for (let l = 0; l < downLayers; l++) {
        const p = this.#layer("down", l);
        const { keys, values } = contextHeads(top, p, this.#block);
        h = block(h, p, this.#block, local, (q) =>
          attention(q, keys, values, { layout: "bshd", keyMask: live }),
        );
      }
      return { out: this.#block.norm(h, this.#p["norm.weight"]!), top };
    });
  }

  #layer(name: string, l: number): Record<string, Tensor> {
    return subParameters(this.#p, `${name}.${l}`);
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
    const spans = gather(hideRows("TopDownTransformer", h, keyMask), ids, 1); // [batch, units, poolKernel, dim]
    const sums = sum(mul(spans, weights.reshape([...weights.shape, 1])), { axes: 2 });
    const live = mul(gpu.full([batch, 1], 1), isLive(total));
    return {
      units: div(sums, nonZero(total).reshape([...total.shape, 1])).reshape([batch, units, dim]),
      live: cast(live, "i32"),
    };
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}
