import {
  KVCache,
  YocoCrossAttention,
  YocoKeyValues,
  type AttentionPositions,
  type YocoCrossAttentionConfig,
} from "@x/attention";
import { ConfigError, type Tensor } from "@x/kernels";
import { rmsNorm } from "@x/norm";
import { configOf, type ComponentSpec } from "../../config/index.js";
import type {
  AttentionEncoding,
  Factory,
  ForwardContext,
  Mixer,
  MixerState,
  StateOptions,
  Weights,
} from "../contract.js";
import { ParameterSet } from "../parameters.js";
import { positionContext, stateOf } from "./shared.js";

/** What the first upper layer makes and all read. */
interface Shared {
  readonly keys: Tensor;
  readonly values: Tensor;
  readonly positions: AttentionPositions | undefined;
}

const NAME = "yoco";

/**
 * The upper half of YOCO: layers that attend to one set of keys and values. The lower layers are `attention` with a
 * `window`. The first layer of type `yoco` makes keys and values from its input at all positions; the layers after it have
 * queries only, so that a prompt skips all of them but for its last token.
 */
class YocoCross implements Mixer {
  readonly #weights: Weights;
  readonly #attention: YocoCrossAttention;
  /** In the first of the upper layers. */
  readonly #keyValues: YocoKeyValues | undefined;
  readonly #encoding: AttentionEncoding | undefined;
  readonly tokenwise = true;

  constructor(spec: ComponentSpec, weights: Weights) {
    const { model, name, layer } = weights;
    const { dim } = model;
    const who = `${name}: yoco`;
    const config = configOf(who, YocoCrossAttention.schema, spec, { dim }) as YocoCrossAttentionConfig;
    const set = new ParameterSet(weights);
    this.#weights = weights;
    this.#attention = new YocoCrossAttention(config, set.planned(YocoCrossAttention.plan(config)));
    const { numKvHeads, headDim } = this.#attention;
    if (model.layers[layer - 1]?.mixer.type !== "yoco") {
      const own = { dim, numKvHeads, headDim };
      this.#keyValues = new YocoKeyValues(own, set.planned(YocoKeyValues.plan(own)), { rmsNorm });
    }
    const shape = { numHeads: config.numHeads, numKvHeads, headDim };
    this.#encoding = weights.encoding.attention?.(weights, shape);
    if (this.#encoding && (this.#encoding.scores ?? this.#encoding.values))
      throw new ConfigError(who, "takes encodings that turn queries and keys (rope), or none");
  }

  prepare(x: Tensor, context: ForwardContext, state: MixerState | undefined): void {
    if (!this.#keyValues) return;
    const { keys, values } = this.#keyValues.outputs(x, {
      turn: (k) => this.#encoding?.rotate?.(k, k, positionContext(context)).k ?? k,
    });
    const cache = stateOf(KVCache, state);
    if (cache && !context.positionIds) throw new ConfigError("yoco", "a cache needs positionIds");
    const shared: Shared = cache
      ? {
          positions: cache.append(keys, values, context.positionIds),
          keys: cache.keys,
          values: cache.values,
        }
      : { keys, values, positions: undefined };
    context.shared.set(NAME, shared);
  }

  forward(x: Tensor, context: ForwardContext, _state: MixerState | undefined, residual?: Tensor): Tensor {
    const { keys, values, positions } = context.shared.get(NAME) as Shared;
    const rows = positionContext(this.#rows(context, x.shape[1]!, keys.shape[0]!));
    return this.#attention.forward(x, {
      ...{ keys, values, residual },
      positions: positions && { ...positions, query: context.positionIds! },
      turn: (q) => this.#encoding?.rotate?.(q, q, rows).q ?? q,
    });
  }

  /** Without a cache the last row of a longer text may come alone: its position is the last. */
  #rows(context: ForwardContext, seq: number, batch: number): ForwardContext {
    if (context.positionIds || seq === context.seqLen) return context;
    const ids = Int32Array.from({ length: batch * seq }, (_, i) => context.seqLen - seq + (i % seq));
    return { ...context, positionIds: this.#weights.gpu.tensor(ids, [batch, seq], "i32") };
  }

  createState({ batch, maxLength }: StateOptions): MixerState {
    if (!this.#keyValues) return { bytesPerToken: 0, clear: () => undefined, dispose: () => undefined };
    const { numKvHeads, headDim } = this.#attention;
    return new KVCache(this.#weights.gpu, { batch, numKvHeads, headDim, maxLength });
  }

  parameters(): Record<string, Tensor> {
    return {
      ...this.#attention.parameters(),
      ...this.#keyValues?.parameters(),
      ...this.#encoding?.parameters(),
    };
  }
}

export const yocoMixer: Factory<Mixer> = (spec, weights) => new YocoCross(spec, weights);
