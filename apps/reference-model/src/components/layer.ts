import { ConfigError, mul, type Tensor } from "@x/kernels";
import {
  deepnormConstants,
  parallelResidual,
  placement,
  subLnGain,
  type Placement,
  type StreamMap,
} from "@x/norm";
import type { LayerSpec } from "../config/index.js";
import type {
  Encoding,
  FeedForwardBlock,
  ForwardContext,
  LayerState,
  Mixer,
  Norm,
  Part,
  StateOptions,
  Weights,
} from "./contract.js";
import { below, find } from "./find.js";

/** Names of the norms before (N) and after (M) the mixer, the attention to an encoder and the feed-forward block. */
const NORM_NAMES = {
  plain: {
    mixer: ["input_layernorm"],
    cross: ["cross_attention_layernorm"],
    ffn: ["post_attention_layernorm"],
  },
  // OLMo 2's names.
  after: {
    mixer: ["post_attention_layernorm"],
    cross: ["post_cross_attention_layernorm"],
    ffn: ["post_feedforward_layernorm"],
  },
  // Gemma 2's names.
  both: {
    mixer: ["input_layernorm", "post_attention_layernorm"],
    cross: ["cross_attention_layernorm", "post_cross_attention_layernorm"],
    ffn: ["pre_feedforward_layernorm", "post_feedforward_layernorm"],
  },
} as const;

/** The names of a block's norms: without a feed-forward block, or beside it after one norm, only the first is there. */
function normNames({ placement: where, cross, ffn, parallel }: LayerSpec): {
  mixer: readonly string[];
  cross: readonly string[];
  ffn: readonly string[];
} {
  const both = where === "sandwich" || where === "periLn";
  const names = NORM_NAMES[both ? "both" : where === "resPostNorm" ? "after" : "plain"];
  return {
    mixer: names.mixer,
    cross: cross ? names.cross : [],
    ffn: parallel === "oneNorm" || ffn.type === "none" ? [] : names.ffn,
  };
}

/** A sublayer that may add the residual itself. */
type Sublayer = (x: Tensor, residual?: Tensor) => Tensor;

/**
 * One block: a mixer, in a decoder of an encoder-decoder the attention to the encoder's output, and a feed-forward block,
 * each a residual step of the layer's placement.
 */
export class Block implements Part {
  readonly mixer: Mixer;
  readonly cross: Mixer | undefined;
  readonly ffn: FeedForwardBlock;
  readonly #placement: Placement;
  readonly #alpha: number;
  readonly #branchScale: number;
  readonly #parallel: boolean;
  /** Norms by name, in the order of use. */
  readonly #mixerNorms: readonly (readonly [string, Norm])[];
  /** Empty without an encoder. */
  readonly #crossNorms: readonly (readonly [string, Norm])[];
  /** Empty without a feed-forward block, or where the mixer's norm is also its own. */
  readonly #ffnNorms: readonly (readonly [string, Norm])[];
  readonly #ffnName: string;

  constructor(weights: Omit<Weights, "gain" | "innerNorm" | "encoding">, encoding: Encoding) {
    const { model, layer, components, name } = weights;
    const spec = model.layers[layer]!;
    const depth = { architecture: "decoder", decoderLayers: model.layers.length } as const;
    if (spec.cross && spec.parallel)
      throw new ConfigError(
        name,
        "attends to an encoder; its mixer and feed-forward block cannot be parallel",
      );
    const deep = spec.placement === "deepnorm" ? deepnormConstants(depth) : undefined;
    const gain = deep?.beta ?? (spec.placement === "subLn" ? subLnGain(depth) : 1);
    this.#placement = spec.placement;
    this.#alpha = deep?.alpha ?? 1;
    this.#branchScale = spec.branchScale ?? 1;
    this.#parallel = spec.parallel !== undefined;
    const makeNorm = find("norm", components.norms, spec.norm, name);
    const whole: Weights = { ...weights, encoding, gain };
    const part = (at: string): Weights => {
      const own = below(whole, at);
      return spec.placement === "subLn"
        ? { ...own, innerNorm: (inner, dim) => makeNorm(spec.norm, below(own, inner), dim) }
        : own;
    };
    this.#ffnName = components.ffnNames[spec.ffn.type] ?? "mlp";
    this.mixer = find("mixer", components.mixers, spec.mixer, name)(spec.mixer, part("self_attn"));
    this.cross =
      spec.cross && find("mixer", components.mixers, spec.cross, name)(spec.cross, part("cross_attn"));
    this.ffn = find("ffn", components.ffns, spec.ffn, name)(spec.ffn, part(this.#ffnName));
    const names = normNames(spec);
    const norms = (list: readonly string[]): (readonly [string, Norm])[] =>
      list.map((at) => [at, makeNorm(spec.norm, below(whole, at), model.dim)]);
    this.#mixerNorms = norms(names.mixer);
    this.#crossNorms = norms(names.cross);
    this.#ffnNorms = norms(names.ffn);
  }

  forward(x: Tensor, context: ForwardContext, state?: LayerState): Tensor {
    const maps = (norms: readonly (readonly [string, Norm])[]): StreamMap[] =>
      norms.map(
        ([, norm]) =>
          (y: Tensor) =>
            norm.forward(y, context),
      );
    const { runFfn } = context;
    const mix: Sublayer = (y, r) => this.mixer.forward(y, context, state?.mixer, r);
    const feed: Sublayer = (y, r) =>
      runFfn ? runFfn(this.ffn, y, context, r) : this.ffn.forward(y, context, r, state?.ffn);
    const [before, between] = [maps(this.#mixerNorms), maps(this.#ffnNorms)];
    if (this.#parallel)
      return parallelResidual(x, [
        { sublayer: (y) => this.#scaled(mix(y)), norm: before[0]! },
        { sublayer: (y) => this.#scaled(feed(y)), norm: between[0] ?? before[0]! },
      ]);
    let mixed = this.#step(x, mix, before);
    const { cross } = this;
    if (cross) {
      const attend: Sublayer = (y, r) => cross.forward(y, context, state?.cross, r);
      mixed = this.#step(mixed, attend, maps(this.#crossNorms));
    }
    return between.length === 0 ? mixed : this.#step(mixed, feed, between);
  }

  /** Empty states of the layer's parts. */
  createState(options: StateOptions): LayerState {
    const mixer = this.mixer.createState(options);
    const cross = this.cross?.createState(options);
    const ffn = this.ffn.createState?.(options);
    const parts = [mixer, cross, ffn].filter((part) => part !== undefined);
    return {
      mixer,
      cross,
      ffn,
      bytesPerToken: parts.reduce((n, part) => n + part.bytesPerToken, 0),
      countsOnHost: parts.some((part) => part.countsOnHost === true),
      ...(parts.every((part) => part.reorder !== undefined)
        ? {
            reorder: (rows: Tensor) => {
              for (const part of parts) part.reorder!(rows);
            },
          }
        : {}),
      clear: () => {
        for (const part of parts) part.clear();
      },
      dispose: () => {
        for (const part of parts) part.dispose();
      },
    };
  }

  #scaled(branch: Tensor): Tensor {
    return this.#branchScale === 1 ? branch : mul(branch, this.#branchScale);
  }

  #step(x: Tensor, sublayer: Sublayer, [norm, normOut]: StreamMap[]): Tensor {
    // The residual goes into the sublayer's last matmul where nothing stands between them.
    if ((this.#placement === "preLn" || this.#placement === "subLn") && this.#branchScale === 1)
      return sublayer(norm!(x), x);
    // Sub-LN's inner norm is the sublayer's own part here.
    return placement(this.#placement === "subLn" ? "preLn" : this.#placement)(x, {
      sublayer: (y) => sublayer(y),
      norm: norm!,
      normOut,
      alpha: this.#alpha,
      branchScale: this.#branchScale,
    });
  }

  get #parts(): [string, Part][] {
    return [
      ["self_attn", this.mixer],
      ...(this.cross ? ([["cross_attn", this.cross]] as [string, Part][]) : []),
      [this.#ffnName, this.ffn],
      ...[...this.#mixerNorms, ...this.#crossNorms, ...this.#ffnNorms].map(
        ([n, norm]) => [n, norm] as [string, Part],
      ),
    ];
  }

  parameters(): Record<string, Tensor> {
    return named(this.#parts, (part) => part.parameters());
  }

  buffers(): Record<string, Tensor> {
    return named(this.#parts, (part) => part.buffers?.() ?? {});
  }

  afterStep(): void {
    for (const [, part] of this.#parts) part.afterStep?.();
  }

  dispose(): void {
    for (const [, part] of this.#parts) part.dispose?.();
  }
}

/** Tensors of parts under the parts' names. */
export function named(
  parts: readonly (readonly [string, Part])[],
  of: (part: Part) => Record<string, Tensor>,
): Record<string, Tensor> {
  return Object.fromEntries(
    parts.flatMap(([name, part]) =>
      Object.entries(of(part)).map(([key, t]) => [`${name}.${key}`, t] as const),
    ),
  );
}
