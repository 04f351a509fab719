import {
  Component,
  ConfigError,
  expectInteger,
  expectShape,
  expectTensor,
  integer,
  number,
  ones,
  prefixed,
  schema,
  slice,
  subParameters,
  value,
  type Config,
  type ParameterPlan,
  type Parameters,
  type State,
  type Stateful,
  type Tensor,
} from "@x/kernels";
import {
  BLOCK_FIELDS,
  blockContext,
  blockPlan,
  blocks,
  expectTokens,
  feedForward,
  feedForwardPlan,
  layersOf,
  layersPlan,
  type BlockContext,
} from "../block/block.js";
import { expectGroups } from "../block/heads.js";
import { PlainRope, type Parts, type Rope } from "../block/parts.js";
import { cachedAttention } from "../cache/cached_attention.js";
import { POSITION_FIELDS, STATE_FIELDS } from "../cache/fields.js";
import { KVCache } from "../cache/kv_cache.js";
import { attention } from "../engine/attention.js";
import { YocoCrossAttention, YocoKeyValues } from "./yoco_cross.js";

const YOCO = schema("Yoco", {
  ...BLOCK_FIELDS,
  numKvHeads: integer("Heads of keys and values in the upper half.", { min: 1, defaultDoc: "numHeads" }),
  selfLayers: integer("Layers of the lower half.", { min: 1 }),
  crossLayers: integer("Layers of the upper half.", { min: 1 }),
  window: integer("Keys that a token of the lower half sees, its own included.", { min: 1 }),
  ropeBase: number("Base of the rotation's frequencies.", { min: Number.MIN_VALUE, default: 10000 }),
});
export type YocoConfig = Config<typeof YOCO>;

/** A ring of window - 1 tokens for each lower layer, and one set of keys and values for all upper layers. */
export class YocoCache implements State {
  readonly layers: readonly KVCache[];
  readonly shared: KVCache;

  constructor(layers: readonly KVCache[], shared: KVCache) {
    this.layers = layers;
    this.shared = shared;
  }

  get #all(): readonly KVCache[] {
    return [...this.layers, this.shared];
  }

  /** Bytes on the GPU. */
  get bytes(): number {
    return this.#all.reduce((sum, cache) => sum + cache.bytes, 0);
  }

  /** Bytes by which one token makes the cache grow: the shared keys and values; the rings have a fixed size. */
  get bytesPerToken(): number {
    return this.shared.bytesPerToken;
  }

  /** Tokens so far; undefined once positions came from the device. */
  get length(): number | undefined {
    return this.shared.length;
  }

  /** Forgets all tokens. */
  clear(): void {
    for (const cache of this.#all) cache.clear();
  }

  dispose(): void {
    for (const cache of this.#all) cache.dispose();
  }
}

const OPTIONS = schema("Yoco.forward", {
  state: value(
    "Keys and values of the tokens so far, which the call adds to.",
    "a YocoCache",
    (given: unknown): given is YocoCache => given instanceof YocoCache,
    { optional: true },
  ),
  ...POSITION_FIELDS,
  from: integer("First row of the output: the upper half does not run on the rows before.", {
    min: 0,
    default: 0,
  }),
});
export type YocoOptions = Config<typeof OPTIONS>;

const STATE = schema("Yoco.createState", {
  ...STATE_FIELDS,
  maxChunk: integer("Most tokens that the lower half takes at a time.", { min: 1, default: 64 }),
});

export interface YocoOutputs {
  /** [batch, seq - from, dim] */
  readonly out: Tensor;
  /** Of the tokens of this call, [batch, seq, numKvHeads, headDim]. */
  readonly keys: Tensor;
  readonly values: Tensor;
}

/** An upper layer: its attention, and the parameters of its norms and feed-forward block. */
interface UpperLayer {
  readonly p: Parameters;
  readonly attention: YocoCrossAttention;
}

/**
 * You only cache once: a lower half of sliding-window blocks gives h; `YocoKeyValues` makes K and V of h once, and every
 * layer of the upper half attends to them: z += YocoCrossAttention(RMSNorm(z), K, V), z += FFN(z), z = h at first;
 * out = RMSNorm(z). A prompt runs through the lower half only.
 *
 * x [batch, seq, dim], f32 or f16. Parameters self_decoder.<l>.*, kv_layer_norm, k_proj, v_proj, cross_decoder.<l>.*, norm;
 * matrices initially normal, norms ones. Sun et al. 2024, arXiv:2405.05254, sections 2 and 3 (sliding-window form).
 */
export class Yoco extends Component<typeof YOCO> implements Stateful<YocoCache> {
  static readonly schema = YOCO;
  readonly numKvHeads: number;
  readonly #rope: Rope;
  readonly #block: BlockContext;
  readonly #lower: readonly Parameters[];
  readonly #keyValues: YocoKeyValues;
  readonly #upper: readonly UpperLayer[];

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: YocoConfig, parameters: Parameters, parts: Parts = {}) {
    super(YOCO, config, Yoco.plan(config), parameters);
    const { headDim, ropeBase, selfLayers, crossLayers } = this.config;
    const inner = innerConfigs(this.config);
    const p = this.weights;
    this.numKvHeads = inner.keyValues.numKvHeads;
    this.#block = blockContext(YOCO.name, this.config, parts);
    this.#lower = layersOf(p, "self_decoder", selfLayers);
    const own = Object.keys(YocoKeyValues.plan(inner.keyValues)).map((name) => [name, p[name]!] as const);
    this.#keyValues = new YocoKeyValues(inner.keyValues, Object.fromEntries(own), {
      rmsNorm: parts.rmsNorm,
    });
    this.#upper = layersOf(p, "cross_decoder", crossLayers).map((layer) => ({
      p: layer,
      attention: new YocoCrossAttention(inner.cross, subParameters(layer, "cross_attn")),
    }));
    this.#rope = parts.rope ?? this.own(new PlainRope(p["norm.weight"]!.gpu, headDim, ropeBase));
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: YocoConfig): ParameterPlan {
    const { name: who } = YOCO;
    const read = YOCO.read(config);
    const { dim, numHeads, numKvHeads = numHeads, headDim, selfLayers, crossLayers } = read;
    if (headDim % 2 !== 0) throw new ConfigError(who, `headDim is ${headDim}; it must be even to rotate`);
    expectGroups(who, numHeads, numKvHeads);
    const inner = innerConfigs(read);
    return {
      ...layersPlan("self_decoder", selfLayers, blockPlan(read)),
      ...YocoKeyValues.plan(inner.keyValues),
      ...layersPlan("cross_decoder", crossLayers, {
        "input_layernorm.weight": ones(dim),
        ...prefixed("cross_attn", YocoCrossAttention.plan(inner.cross)),
        ...feedForwardPlan(read),
      }),
      "norm.weight": ones(dim),
    };
  }

  /** An empty state for decoding. @throws ConfigError */
  createState(options: Config<typeof STATE>): YocoCache {
    const { gpu } = this.weights["norm.weight"]!;
    const sizes = STATE.read(options);
    const { numHeads, headDim, window } = this.config;
    const ring = (): KVCache => new KVCache(gpu, { ...sizes, numKvHeads: numHeads, headDim, window });
    const shared = new KVCache(gpu, { ...sizes, numKvHeads: this.numKvHeads, headDim });
    return new YocoCache(this.#lower.map(ring), shared);
  }

  /** x [batch, seq, dim]; returns [batch, seq - from, dim]. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: YocoOptions = {}): Tensor {
    expectTensor(YOCO.name, "x", x);
    return x.gpu.scope(() => this.outputs(x, options).out);
  }

  /**
   * Fills the state with a prompt x [batch, seq, dim] and returns the last row, [batch, 1, dim]: the upper half runs on
   * that row alone.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  prefill(x: Tensor, state: YocoCache): Tensor {
    const { seq } = expectShape(YOCO.name, "x", x, ["batch", "seq", this.config.dim]) as { seq: number };
    return this.forward(x, { state, from: Math.max(0, seq - 1) });
  }

  /** The output, and the keys and values that the upper half shares. @throws ConfigError, ShapeError, DTypeError */
  outputs(x: Tensor, options: YocoOptions = {}): YocoOutputs {
    const { name: who } = YOCO;
    const { state, positions, textLength, from } = OPTIONS.read(options, who);
    const { seq } = expectShape(who, "x", x, ["batch", "seq", this.config.dim]) as { seq: number };
    expectTokens(who, seq);
    expectInteger(who, "from", from, 0, seq - 1);
    for (const [name, given] of Object.entries({ positions, textLength }))
      if (given !== undefined && !state)
        throw new ConfigError(who, `${name} is given without a state; rows are then counted from 0`);
    if (state && state.layers.length !== this.#lower.length)
      throw new ConfigError(
        who,
        `state has ${state.layers.length} lower layers; it must have selfLayers, ${this.#lower.length}`,
      );
    const { norm } = this.#block;
    return x.gpu.scope(() => {
      const ids = state?.shared.place(seq, positions, {
        textLength,
        changes: (before, after) => this.#rope.changes?.(before, after) ?? false,
      });
      const turn = (t: Tensor, first = 0): Tensor =>
        this.#rope.apply(t, {
          layout: "bshd",
          seqLen: state?.shared.textLength ?? seq,
          ...(ids && state
            ? {
                positionIds: first === 0 ? ids : slice(ids, { axis: 1, start: first }),
                maxPositions: state.shared.config.maxLength,
              }
            : { positionOffset: first }),
        });
      const h = this.#lowerHalf(x, turn, state, ids);
      const { keys, values } = this.#keyValues.outputs(h, { turn });
      const where = state?.shared.append(keys, values, ids);
      const shared = {
        keys: state?.shared.keys ?? keys,
        values: state?.shared.values ?? values,
        positions:
          where && (from === 0 ? where : { ...where, query: slice(where.query, { axis: 1, start: from }) }),
        turn: (q: Tensor) => turn(q, from),
      };
      let z = from === 0 ? h : slice(h, { axis: 1, start: from });
      for (const layer of this.#upper) {
        const before = z;
        z = before.gpu.scope(() => {
          const a = norm(before, layer.p["input_layernorm.weight"]!);
          const mixed = layer.attention.forward(a, { ...shared, residual: before });
          return feedForward(mixed, layer.p, this.#block);
        });
      }
      return { out: norm(z, this.weights["norm.weight"]!), keys, values };
    });
  }

  #lowerHalf(
    x: Tensor,
    turn: (t: Tensor) => Tensor,
    state: YocoCache | undefined,
    ids: Tensor | undefined,
  ): Tensor {
    const { window } = this.config;
    return blocks(x, this.#lower, this.#block, (q, k, v, l) =>
      state
        ? cachedAttention(turn(q), turn(k), v, state.layers[l]!, { positions: ids })
        : attention(turn(q), turn(k), v, {
            causal: true,
            layout: "bshd",
            window: { left: window - 1, right: 0 },
          }),
    );
  }
}

/** The configurations of the components of the upper half. */
function innerConfigs({ dim, numHeads, numKvHeads = numHeads, headDim, normEps }: YocoConfig): {
  readonly keyValues: { dim: number; numKvHeads: number; headDim: number; normEps: number | undefined };
  readonly cross: { dim: number; numHeads: number; numKvHeads: number; headDim: number };
} {
  return {
    keyValues: { dim, numKvHeads, headDim, normEps },
    cross: { dim, numHeads, numKvHeads, headDim },
  };
}
