import type { Tensor } from "@x/kernels";
import { deepnormConstants, placement, subLnGain, type Placement } from "@x/norm";
import type {
  Encoding,
  FeedForwardBlock,
  ForwardContext,
  Mixer,
  MixerState,
  Norm,
  Part,
  Weights,
} from "./contract.js";
import { below, find } from "./find.js";

/** Names of the norms before (N) and after (M) the mixer and the feed-forward block. */
const NORM_NAMES = {
  plain: { mixer: ["input_layernorm"], ffn: ["post_attention_layernorm"] },
  // Gemma 2's names.
  both: {
    mixer: ["input_layernorm", "post_attention_layernorm"],
    ffn: ["pre_feedforward_layernorm", "post_feedforward_layernorm"],
  },
} as const;

/** A sublayer that may add the residual itself. */
type Sublayer = (x: Tensor, residual?: Tensor) => Tensor;

/** One block: a mixer and a feed-forward block, each a residual step of the layer's placement. */
export class DecoderLayer implements Part {
  readonly mixer: Mixer;
  readonly ffn: FeedForwardBlock;
  readonly #placement: Placement;
  readonly #alpha: number;
  /** Norms by name, in the order of use. */
  readonly #norms: readonly (readonly [string, Norm])[];
  readonly #ffnName: string;

  constructor(weights: Omit<Weights, "gain" | "innerNorm" | "encoding">, encoding: Encoding) {
    const { model, layer, components, name } = weights;
    const spec = model.layers[layer]!;
    const depth = { architecture: "decoder", decoderLayers: model.layers.length } as const;
    const deep = spec.placement === "deepnorm" ? deepnormConstants(depth) : undefined;
    const gain = deep?.beta ?? (spec.placement === "subLn" ? subLnGain(depth) : 1);
    this.#placement = spec.placement;
    this.#alpha = deep?.alpha ?? 1;
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
    this.ffn = find("ffn", components.ffns, spec.ffn, name)(spec.ffn, part(this.#ffnName));
    const names = NORM_NAMES[spec.placement === "sandwich" || spec.placement === "periLn" ? "both" : "plain"];
    this.#norms = [...names.mixer, ...names.ffn].map((at) => [
      at,
      makeNorm(spec.norm, below(whole, at), model.dim),
    ]);
  }

  forward(x: Tensor, context: ForwardContext, state?: MixerState): Tensor {
    const norms = this.#norms.map(
      ([, norm]) =>
        (y: Tensor) =>
          norm.forward(y, context),
    );
    const half = norms.length / 2;
    const mixed = this.#step(x, (y, r) => this.mixer.forward(y, context, state, r), norms.slice(0, half));
    const { runFfn } = context;
    return this.#step(
      mixed,
      (y, r) => (runFfn ? runFfn(this.ffn, y, context, r) : this.ffn.forward(y, context, r)),
      norms.slice(half),
    );
  }

  #step(x: Tensor, sublayer: Sublayer, [norm, normOut]: ((x: Tensor) => Tensor)[]): Tensor {
    // The residual goes into the sublayer's last matmul where nothing stands between them.
    if (this.#placement === "preLn" || this.#placement === "subLn") return sublayer(norm!(x), x);
    return placement(this.#placement)(x, {
      sublayer: (y) => sublayer(y),
      norm: norm!,
      normOut,
      alpha: this.#alpha,
    });
  }

  get #parts(): [string, Part][] {
    return [
      ["self_attn", this.mixer],
      [this.#ffnName, this.ffn],
      ...this.#norms.map(([n, norm]) => [n, norm] as [string, Part]),
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
