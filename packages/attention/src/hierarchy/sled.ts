import {
  checkConfig,
  concat,
  ConfigError,
  expectDType,
  expectInteger,
  expectNumber,
  expectShape,
  gather,
  slice,
  subParameters,
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
  type BlockConfig,
  type BlockContext,
} from "../block/block.js";
import { cachedAttention } from "../cache/cached_attention.js";
import { attention } from "../engine/attention.js";
import { KVCache } from "../cache/kv_cache.js";
import type { ContextCache } from "../heads/multi_head_attention.js";
import { checkParameters, initParameters, ones, type InitOptions, type Plan } from "../parameters.js";
import type { Parts } from "../block/parts.js";
import type { TokenPositions } from "../cache/slots.js";

export interface SledConfig extends BlockConfig {
  /** Encoder layers. */
  readonly layers: number;
  readonly decLayers: number;
  /** Tokens of a window. */
  readonly contextSize: number;
  /** Share of a window whose rows are kept, in (0, 1]. */
  readonly windowFraction: number;
  /** Leading tokens of x (a question) that are put before every window. Default 0. */
  readonly prefixLen?: number;
}

/** A window [start, end) of a document, and the rows [keepStart, keepEnd) that are taken from it. */
export interface SledWindow {
  readonly start: number;
  readonly end: number;
  readonly keepStart: number;
  readonly keepEnd: number;
}

/**
 * Windows over a document of `length` tokens: one if it fits; else every contextSize - 2 margin tokens,
 * margin = floor(contextSize (1 - windowFraction) / 2), the last moved back to be full. Each keeps its middle.
 */
export function sledWindows(length: number, contextSize: number, windowFraction: number): SledWindow[] {
  const who = "sledWindows";
  expectInteger(who, "length", length, 1);
  expectInteger(who, "contextSize", contextSize, 1);
  expectNumber(who, "windowFraction", windowFraction, 0, 1);
  if (length <= contextSize) return [{ start: 0, end: length, keepStart: 0, keepEnd: length }];
  const margin = Math.floor((contextSize * (1 - windowFraction)) / 2);
  const stride = contextSize - 2 * margin;
  if (stride < 1)
    throw new ConfigError(
      who,
      `windows of ${contextSize} with windowFraction ${windowFraction} keep nothing; raise windowFraction`,
    );
  const windows: SledWindow[] = [];
  for (let start = 0, kept = 0; ; start += stride) {
    const last = start + contextSize >= length;
    const from = last ? length - contextSize : start;
    const keepEnd = last ? length : from + contextSize - margin;
    windows.push({ start: from, end: from + contextSize, keepStart: kept, keepEnd });
    if (last) return windows;
    kept = keepEnd;
  }
}

/** Decoder state: own keys and values, and those of the encoded document, computed once per layer. */
export interface SledCache {
  readonly layers: readonly KVCache[];
  readonly context: readonly ContextCache[];
  readonly bytesPerToken: number;
  dispose(): void;
}

/**
 * SLED: a short-context encoder runs on overlapping windows of a long document (all windows at once, as a batch), each
 * giving its middle rows; the decoder attends to all of them.
 *
 * x [batch, prefixLen + length, dim], y [batch, t, dim]. Parameters layers.<l>.*, norm, decoder.<l>.* (with
 * cross_attn), decoder_norm. Ivgi et al. 2023, arXiv:2208.00748, section 3.
 */
export class Sled implements Module {
  readonly config: SledConfig;
  readonly #p: Record<string, Tensor>;
  readonly #block: BlockContext;

  /** @throws ConfigError */
  constructor(config: SledConfig, parameters: Readonly<Record<string, Tensor>>, parts: Parts = {}) {
    this.#block = blockContext(config, parts);
    this.#p = checkParameters("Sled", Sled.plan(config), parameters);
    this.config = config;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: SledConfig): Plan {
    const who = "Sled";
    checkBlockConfig(who, config, ["layers", "decLayers", "contextSize", "windowFraction", "prefixLen"]);
    const { dim, layers, decLayers, contextSize, windowFraction, prefixLen = 0 } = config;
    expectLayers(who, { layers, decLayers }, 0);
    expectInteger(who, "prefixLen", prefixLen, 0);
    expectInteger(who, "contextSize", contextSize, 1);
    sledWindows(contextSize + 1, contextSize, windowFraction);
    return {
      ...layersPlan("layers", layers, blockPlan(config)),
      "norm.weight": ones(dim),
      ...layersPlan("decoder", decLayers, blockPlan(config, true)),
      "decoder_norm.weight": ones(dim),
    };
  }

  /** Normal matrices, norms of ones. */
  static init(gpu: Gpu, config: SledConfig, options: InitOptions, parts: Parts = {}): Sled {
    return new Sled(config, initParameters("Sled", gpu, Sled.plan(config), options), parts);
  }

  /** Encode x [batch, prefixLen + length, dim] window by window; keyMask i32 [batch, prefixLen + length]. */
  encode(x: Tensor, keyMask?: Tensor): Tensor {
    const who = "Sled";
    const { dim, contextSize, windowFraction, prefixLen = 0 } = this.config;
    const { batch, all } = expectShape(who, "x", x, ["batch", "all", dim]) as { batch: number; all: number };
    if (all <= prefixLen)
      throw new ConfigError(who, `x has ${all} tokens; there must be more than prefixLen, ${prefixLen}`);
    if (keyMask) {
      expectShape(who, "keyMask", keyMask, [batch, all]);
      expectDType(who, "keyMask", keyMask, "i32");
    }
    const windows = sledWindows(all - prefixLen, contextSize, windowFraction);
    return x.gpu.scope(() => {
      const width = windows[0]!.end - windows[0]!.start;
      const rows = prefixLen + width;
      const count = windows.length;
      const prefix = Array.from({ length: prefixLen }, (_, i) => i);
      const ids = windows.flatMap(({ start }) => [
        ...prefix,
        ...Array.from({ length: width }, (_, i) => prefixLen + start + i),
      ]);
      const kept = windows.flatMap(({ start, keepStart, keepEnd }, w) =>
        Array.from({ length: keepEnd - keepStart }, (_, i) => w * rows + prefixLen + keepStart + i - start),
      );
      const index = (list: readonly number[], shape: readonly number[]): Tensor =>
        x.gpu.tensor(list, shape, "i32");
      const take = index(ids, [count, rows]);
      const z = gather(x, take, 1).reshape([batch * count, rows, dim]);
      const mask = keyMask && gather(keyMask, take, 1).reshape([batch * count, rows]);
      const encoded = this.#encoder(z, mask).reshape([batch, count * rows, dim]);
      const document = gather(encoded, index(kept, [kept.length]), 1);
      if (prefixLen === 0) return document;
      const first = { axis: 1, end: prefixLen };
      const question = this.#encoder(slice(x, first), keyMask && slice(keyMask, first));
      return concat([question, document], 1);
    });
  }

  #encoder(z: Tensor, keyMask: Tensor | undefined): Tensor {
    let h = z;
    for (let l = 0; l < this.config.layers; l++)
      h = block(h, subParameters(this.#p, `layers.${l}`), this.#block, (q, k, v) =>
        attention(q, k, v, { layout: "bshd", keyMask }),
      );
    return this.#block.norm(h, this.#p["norm.weight"]!);
  }

  /** Decode y [batch, t, dim] against encoded states (keyMask as in `encode`), or against what a cache holds. */
  decode(
    y: Tensor,
    options: {
      readonly encoded?: Tensor | undefined;
      readonly keyMask?: Tensor | undefined;
      readonly cache?: SledCache | undefined;
      readonly positions?: TokenPositions;
    },
  ): Tensor {
    const who = "Sled.decode";
    checkConfig(who, options, ["encoded", "keyMask", "cache", "positions"]);
    const { encoded, keyMask, cache, positions } = options;
    const { dim, decLayers } = this.config;
    const { seq } = expectShape(who, "y", y, ["batch", "seq", dim]) as { seq: number };
    expectTokens(who, seq);
    if ((encoded === undefined) === (cache === undefined))
      throw new ConfigError(who, "give either encoded states or a cache");
    return y.gpu.scope(() => {
      let h = y;
      const ids = cache?.layers[0]?.place(seq, positions);
      for (let l = 0; l < decLayers; l++) {
        const p = subParameters(this.#p, `decoder.${l}`);
        const context = cache ? cache.context[l]! : { ...contextHeads(encoded!, p, this.#block), keyMask };
        h = block(
          h,
          p,
          this.#block,
          (q, k, v) =>
            cache
              ? cachedAttention(q, k, v, cache.layers[l]!, { positions: ids })
              : attention(q, k, v, { causal: true, layout: "bshd" }),
          (q) => attention(q, context.keys, context.values, { layout: "bshd", keyMask: context.keyMask }),
        );
      }
      return this.#block.norm(h, this.#p["decoder_norm.weight"]!);
    });
  }

  /** The encoded document, and the decoder's rows for y. */
  forward(x: Tensor, y: Tensor, keyMask?: Tensor): { encoded: Tensor; out: Tensor } {
    return x.gpu.scope(() => {
      const encoded = this.encode(x, keyMask);
      return { encoded, out: this.decode(y, { encoded, keyMask }) };
    });
  }

  /** State for decoding token by token against encoded states. */
  createCache(
    encoded: Tensor,
    options: { readonly maxLength: number; readonly keyMask?: Tensor | undefined },
  ): SledCache {
    const { gpu } = encoded;
    const { numHeads, headDim, decLayers } = this.config;
    const batch = encoded.shape[0]!;
    const { maxLength, keyMask } = options;
    const layers = Array.from(
      { length: decLayers },
      () => new KVCache(gpu, { batch, numKvHeads: numHeads, headDim, maxLength }),
    );
    const context = Array.from({ length: decLayers }, (_, l): ContextCache => {
      const { keys, values } = gpu.scope(() =>
        contextHeads(encoded, subParameters(this.#p, `decoder.${l}`), this.#block),
      );
      for (const t of [keys, values]) gpu.keep(t);
      return {
        keys,
        values,
        keyMask,
        dispose: () => {
          keys.dispose();
          values.dispose();
        },
      };
    });
    return {
      layers,
      context,
      bytesPerToken: layers.reduce((n, cache) => n + cache.bytesPerToken, 0),
      dispose: () => {
        for (const cache of [...layers, ...context]) cache.dispose();
      },
    };
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}
