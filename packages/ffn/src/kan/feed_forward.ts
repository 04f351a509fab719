import {
  Component,
  ConfigError,
  expectTensor,
  integer,
  oneOf,
  prefixed,
  schema,
  subParameters,
  type ComponentClass,
  type Config,
  type Field,
  type ParameterPlan,
  type Parameters,
  type Schema,
  type Tensor,
} from "@x/kernels";
import { ChebyshevKanLinear } from "./bases/chebyshev.js";
import { FourierKanLinear } from "./bases/fourier.js";
import { WaveletKanLinear } from "./bases/wavelet.js";
import { withoutGrids, type KanLayer } from "./layer.js";
import { KanLinear } from "./linear.js";

export const KAN_BASES = ["bspline", "chebyshev", "fourier", "wavelet"] as const;
/** A family of edge functions. */
export type KanBasis = (typeof KAN_BASES)[number];

/** A layer of one family, its configuration being checked where it is read. */
interface Family {
  readonly keys: readonly string[];
  readonly plan: (config: object) => ParameterPlan;
  readonly make: (config: object, parameters: Parameters) => KanLayer;
}
const family = <C extends object>(
  layer: ComponentClass<KanLayer, C, undefined> & { readonly schema: Schema },
): Family => ({
  keys: layer.schema.keys,
  plan: (config) => layer.plan(config as C),
  make: (config, parameters) => new layer(config as C, parameters),
});
const FAMILIES: Readonly<Record<KanBasis, Family>> = {
  bspline: family(KanLinear),
  chebyshev: family(ChebyshevKanLinear),
  fourier: family(FourierKanLinear),
  wavelet: family(WaveletKanLinear),
};

/** A key of some families, whose default is that of the family's layer. */
const ofFamily = <T>({ doc, rule, check }: Field<T>, defaultDoc: string): Field<T, "optional"> => ({
  doc,
  rule,
  check,
  defaultDoc,
  presence: "optional",
});
const [spline, chebyshev] = [KanLinear.schema.fields, ChebyshevKanLinear.schema.fields];
const [fourier, wavelet] = [FourierKanLinear.schema.fields, WaveletKanLinear.schema.fields];
const KAN_FEED_FORWARD = schema("KanFeedForward", {
  dim: integer("Width of x.", { min: 1 }),
  hiddenDim: integer("Width between the two layers.", { min: 1, defaultDoc: "dim" }),
  basis: oneOf("The family of the edges' functions, whose keys may be given.", KAN_BASES, {
    default: "bspline",
  }),
  gridSize: ofFamily(spline.gridSize, "5 for bspline, required for fourier"),
  splineOrder: ofFamily(spline.splineOrder, "3"),
  gridRange: ofFamily(spline.gridRange, "[-1, 1]"),
  baseActivation: ofFamily(spline.baseActivation, '"silu" for bspline, "none" for wavelet'),
  scaler: ofFamily(spline.scaler, "true"),
  noise: ofFamily(spline.noise, "0.1"),
  degree: ofFamily(chebyshev.degree, "required for chebyshev"),
  squash: ofFamily(chebyshev.squash, '"tanh"'),
  bias: ofFamily(fourier.bias, "true"),
  smooth: ofFamily(fourier.smooth, "true"),
  wavelet: ofFamily(wavelet.wavelet, '"mexicanHat"'),
  omega0: ofFamily(wavelet.omega0, "5"),
  batchNorm: ofFamily(wavelet.batchNorm, "false"),
  normEps: ofFamily(wavelet.normEps, "1e-5"),
});
export type KanFeedForwardConfig = Config<typeof KAN_FEED_FORWARD>;

/** The family and the configurations of the two layers. @throws ConfigError for a key of another family */
function layersOf(config: KanFeedForwardConfig): { family: Family; configs: readonly [object, object] } {
  const { dim, hiddenDim = dim, basis, ...options } = KAN_FEED_FORWARD.read(config);
  const family = FAMILIES[basis];
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const known = family.keys.filter((key) => key in options);
  const foreign = given.find(([key]) => !known.includes(key));
  if (foreign)
    throw new ConfigError(
      KAN_FEED_FORWARD.name,
      `${foreign[0]} is given; the basis ${basis} takes ${known.join(", ")}`,
    );
  const layer = { ...(basis === "fourier" ? { smooth: true } : {}), ...Object.fromEntries(given) };
  return {
    family,
    configs: [
      { ...layer, inFeatures: dim, outFeatures: hiddenDim },
      { ...layer, inFeatures: hiddenDim, outFeatures: dim },
    ],
  };
}

/**
 * A KAN in place of the feed-forward block: two layers, dim -> hiddenDim -> dim, with no activation between them, for
 * the edges are the activations. Parameters are layers.0.* and layers.1.*, as those of the basis's layer.
 *
 * Liu et al. 2024, arXiv:2404.19756, equation 2.7.
 */
export class KanFeedForward extends Component<typeof KAN_FEED_FORWARD> {
  static readonly schema = KAN_FEED_FORWARD;
  readonly layers: readonly [KanLayer, KanLayer];

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: KanFeedForwardConfig): ParameterPlan {
    const { family, configs } = layersOf(config);
    return {
      ...prefixed("layers.0", family.plan(configs[0])),
      ...prefixed("layers.1", family.plan(configs[1])),
    };
  }

  /**
   * @param parameters as planned, and with moved knots layers.0.grid and layers.1.grid
   * @throws ConfigError, ShapeError, DTypeError
   */
  constructor(config: KanFeedForwardConfig, parameters: Parameters) {
    const { planned, grids } = withoutGrids(KAN_FEED_FORWARD.name, parameters, /^layers\.[01]\.grid$/);
    super(KAN_FEED_FORWARD, config, KanFeedForward.plan(config), planned);
    const { family, configs } = layersOf(config);
    const layer = (at: 0 | 1): KanLayer =>
      this.own(family.make(configs[at], subParameters({ ...this.weights, ...grids }, `layers.${at}`)));
    this.layers = [layer(0), layer(1)];
  }

  /** x [..., dim] f32; returns the same shape. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    expectTensor("KanFeedForward.forward", "x", x);
    return x.gpu.scope(() => this.layers[1].forward(this.layers[0].forward(x)));
  }

  /** Knots that were moved. */
  override buffers(): Record<string, Tensor> {
    const entries = this.layers.flatMap((layer, i) =>
      Object.entries(layer.buffers?.() ?? {}).map(([name, t]) => [`layers.${i}.${name}`, t] as const),
    );
    return Object.fromEntries(entries);
  }
}
