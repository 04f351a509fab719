import {
  checkConfig,
  expectInteger,
  expectObject,
  expectOneOf,
  namedParameters,
  subParameters,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { ChebyshevKanLinear, type ChebyshevKanConfig } from "./bases/chebyshev.js";
import { FourierKanLinear, type FourierKanConfig } from "./bases/fourier.js";
import { INIT_KEYS, type KanInit, type KanLayer, type KanShape } from "./layer.js";
import { KanLinear, type KanLinearConfig } from "./linear.js";
import { WaveletKanLinear, type WaveletKanConfig } from "./bases/wavelet.js";

type Options<C> = Omit<C, keyof KanShape>;

/** A family of edge functions, and its options. */
export type KanBasis =
  | ({ readonly basis: "bspline" } & Options<KanLinearConfig>)
  | ({ readonly basis: "chebyshev" } & Options<ChebyshevKanConfig>)
  | ({ readonly basis: "fourier" } & Options<FourierKanConfig>)
  | ({ readonly basis: "wavelet" } & Options<WaveletKanConfig>);

export const KAN_BASES = ["bspline", "chebyshev", "fourier", "wavelet"] as const;

export type KanFeedForwardConfig = KanBasis & {
  readonly dim: number;
  readonly hiddenDim: number;
};

/** Make a KAN layer of any basis from a seed or from weights. */
export function kanLayer(
  gpu: Gpu,
  { basis, ...options }: KanBasis & KanShape,
  from: KanInit | { readonly parameters: Readonly<Record<string, Tensor>> },
): KanLayer {
  expectOneOf("kanLayer", "basis", basis, KAN_BASES);
  const make = <C>(layer: {
    new (config: C, weights: Readonly<Record<string, Tensor>>): KanLayer;
    init(gpu: Gpu, config: C, init: KanInit): KanLayer;
  }): KanLayer =>
    "parameters" in from
      ? new layer(options as unknown as C, from.parameters)
      : layer.init(gpu, options as unknown as C, from);
  switch (basis) {
    case "bspline":
      return make<KanLinearConfig>(KanLinear);
    case "chebyshev":
      return make<ChebyshevKanConfig>(ChebyshevKanLinear);
    case "fourier":
      return make<FourierKanConfig>(FourierKanLinear);
    case "wavelet":
      return make<WaveletKanConfig>(WaveletKanLinear);
  }
}

/** Random streams that a layer may take. */
const STREAMS = 3;

/**
 * A KAN in place of the feed-forward block: two layers, dim -> hiddenDim -> dim, with no activation between them, for
 * the edges are the activations. Parameters are layers.0.* and layers.1.*.
 *
 * x [..., dim] f32. Liu et al. 2024, arXiv:2404.19756, equation 2.7.
 */
export class KanFeedForward implements Module {
  readonly config: KanFeedForwardConfig;
  readonly layers: readonly [KanLayer, KanLayer];

  private constructor(
    config: KanFeedForwardConfig,
    layer: (shape: KanShape & KanBasis, at: number) => KanLayer,
  ) {
    expectObject("KanFeedForward", "config", config);
    const { dim, hiddenDim, ...basis } = config;
    expectInteger("KanFeedForward", "dim", dim, 1);
    expectInteger("KanFeedForward", "hiddenDim", hiddenDim, 1);
    this.config = config;
    this.layers = [
      layer({ ...basis, inFeatures: dim, outFeatures: hiddenDim }, 0),
      layer({ ...basis, inFeatures: hiddenDim, outFeatures: dim }, 1),
    ];
  }

  /** Initial Fourier series are smooth by default. */
  static init(gpu: Gpu, config: KanFeedForwardConfig, init: KanInit): KanFeedForward {
    checkConfig("KanFeedForward", init, INIT_KEYS);
    const { seed, stream = 0, smooth = true } = init;
    return new KanFeedForward(config, (c, at) =>
      kanLayer(gpu, c, { seed, stream: stream + at * STREAMS, smooth }),
    );
  }

  static fromParameters(
    gpu: Gpu,
    config: KanFeedForwardConfig,
    parameters: Readonly<Record<string, Tensor>>,
  ): KanFeedForward {
    return new KanFeedForward(config, (c, at) =>
      kanLayer(gpu, c, { parameters: subParameters(parameters, `layers.${String(at)}`) }),
    );
  }

  forward(x: Tensor): Tensor {
    return x.gpu.scope(() => this.layers[1].forward(this.layers[0].forward(x)));
  }

  parameters(): Record<string, Tensor> {
    return namedParameters({ "layers.0": this.layers[0], "layers.1": this.layers[1] });
  }

  /** Knots that were moved. */
  buffers(): Record<string, Tensor> {
    const entries = this.layers.flatMap((layer, i) =>
      Object.entries(layer.buffers?.() ?? {}).map(([name, t]) => [`layers.${String(i)}.${name}`, t] as const),
    );
    return Object.fromEntries(entries);
  }
}
