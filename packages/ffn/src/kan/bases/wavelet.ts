import {
  add,
  applyOp,
  boolean,
  Component,
  ConfigError,
  e,
  elementwise,
  expectDType,
  expectShape,
  grid1d,
  mean,
  number,
  oneOf,
  ones,
  schema,
  sumMiddle,
  tensor,
  variance,
  zeros,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
} from "@x/kernels";
import { BASE_ACTIVATIONS, baseBranch, checkBase } from "../kan.js";
import { expectFeatures } from "./basis.js";
import { kaiming, SHAPE, type KanLayer } from "../layer.js";
import {
  TOKENS,
  waveletBackwardEdges,
  waveletBackwardInput,
  waveletForward,
  type WaveletKind,
} from "./wavelet.wgsl.js";

export type { WaveletKind } from "./wavelet.wgsl.js";
export const WAVELETS: readonly WaveletKind[] = ["mexicanHat", "morlet", "dog"];

const FIELDS = {
  wavelet: oneOf("The mother wavelet psi.", WAVELETS, { default: "mexicanHat" }),
  omega0: number('Frequency of "morlet".', { default: 5 }),
  baseActivation: oneOf('Adds act(x) baseWeight^T, but for "none".', BASE_ACTIVATIONS, { default: "none" }),
  batchNorm: boolean("Normalise each output over all tokens, with the statistics of this batch.", {
    default: false,
  }),
  normEps: number("Added to the variance by batchNorm.", { min: 0, default: 1e-5 }),
};
const OPTIONS = schema("kanWavelet", FIELDS);
const WEIGHTS = schema("kanWavelet", {
  scale: tensor("Width of each edge's wavelet, [out, in]."),
  translation: tensor("Centre of each edge's wavelet, [out, in]."),
  weight: tensor("Amplitude of each edge's wavelet, [out, in]."),
  baseWeight: tensor("[out, in]; needed by a base branch.", { optional: true }),
  normWeight: tensor("Factor of batchNorm, [out].", { optional: true }),
  normBias: tensor("Shift of batchNorm, [out].", { optional: true }),
});
const WAVELET_KAN_LINEAR = schema("WaveletKanLinear", { ...SHAPE, ...FIELDS });
export type KanWaveletOptions = Config<typeof OPTIONS>;
export type KanWaveletWeights = Config<typeof WEIGHTS>;
export type WaveletKanConfig = Config<typeof WAVELET_KAN_LINEAR>;

/** Threads that are enough to fill a device. */
const FULL = 4096;

function wavelets(x: Tensor, weights: KanWaveletWeights, wavelet: WaveletKind, omega0: number): Tensor {
  const { gpu } = x;
  const { scale, translation, weight } = weights;
  const [outputs = 0, features = 0] = weight.shape;
  const tokens = x.size / Math.max(features, 1);
  const edges = outputs * features;
  const quads = Math.ceil(tokens / TOKENS);
  const chunks = Math.max(1, Math.min(Math.ceil(tokens / 64), Math.ceil(FULL / Math.max(edges, 1))));
  const call = {
    variant: { wavelet },
    params: { tokens, features, outputs, chunk: Math.ceil(tokens / chunks), chunks, omega0 },
  };
  const bindings = { x, scale, translation, weight };
  return applyOp({
    name: "kanWavelet",
    inputs: [x, scale, translation, weight],
    forward: () => {
      const out = gpu.empty([...x.shape.slice(0, -1), outputs]);
      gpu.run(waveletForward, {
        ...call,
        bindings: { ...bindings, out },
        workgroups: grid1d(Math.ceil((quads * outputs) / 64)),
      });
      return { outputs: [out] };
    },
    backward: ({ grads, needs }) => {
      const grad = grads[0]!;
      let dx: Tensor | undefined;
      if (needs[0]) {
        dx = gpu.empty(x.shape);
        gpu.run(waveletBackwardInput, {
          ...call,
          bindings: { ...bindings, grad, dx },
          workgroups: grid1d(Math.ceil((quads * features) / 64)),
        });
      }
      if (!needs.slice(1).includes(true)) return [dx];
      const part = (): Tensor => gpu.empty([chunks, edges]);
      const [dscale, dtranslation, dweight] = [part(), part(), part()];
      gpu.run(waveletBackwardEdges, {
        ...call,
        bindings: { ...bindings, grad, dscale, dtranslation, dweight },
        workgroups: grid1d(Math.ceil((edges * chunks) / 64)),
      });
      const total = (t: Tensor): Tensor => sumMiddle(t, 1, chunks, edges).reshape(weight.shape);
      return [dx, total(dscale), total(dtranslation), total(dweight)];
    },
  })[0]!;
}

const normalize = elementwise(
  "kanWaveletNorm",
  ["x", "mean", "variance", "eps", "weight", "bias"],
  (x, mean, variance, eps, weight, bias) =>
    e.add(e.mul(e.mul(e.sub(x, mean), e.rsqrt(e.add(variance, eps))), weight), bias),
);

/**
 * A KAN layer on wavelets: out_o = sum_i weight[o, i] psi((x_i - translation[o, i]) / scale[o, i]), with psi the
 * Mexican hat 2 / (sqrt 3 pi^(1/4)) (s^2 - 1) e^(-s^2/2), Morlet cos(omega0 s) e^(-s^2/2), or the derivative of a
 * Gaussian -s e^(-s^2/2); plus act(x) baseWeight^T if there is a base branch. `batchNorm` then normalises every
 * output over all leading axes (biased variance) and applies normWeight and normBias. An edge of scale 0 has the limit
 * of ever narrower wavelets: it adds 0 and gets no gradient.
 *
 * Every edge scales its argument itself, so there is no matrix product; the kernels sum block by block and nothing of
 * size [tokens, out, in] is made, forward or backward.
 *
 * x [..., in] f32; result [..., out]. Bozorgasl and Chen 2024, arXiv:2405.12832.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function kanWavelet(x: Tensor, weights: KanWaveletWeights, options: KanWaveletOptions = {}): Tensor {
  const who = OPTIONS.name;
  const features = expectFeatures(who, x);
  const given = WEIGHTS.read(weights);
  const { wavelet, omega0, baseActivation, batchNorm, normEps } = OPTIONS.read(options);
  const { baseWeight, normWeight, normBias } = given;
  const names: Record<string, number> = {};
  for (const name of ["weight", "translation", "scale"] as const) {
    expectDType(who, name, given[name], "f32");
    expectShape(who, name, given[name], ["out", features], names);
  }
  const outputs = names["out"]!;
  checkBase(who, x, baseActivation, baseWeight, outputs);
  for (const [name, t] of Object.entries({ normWeight, normBias })) {
    if (t === undefined) continue;
    if (!batchNorm) throw new ConfigError(who, `${name} is given, but batchNorm is not true`);
    expectDType(who, name, t, "f32");
    expectShape(who, name, t, [outputs]);
  }
  return x.gpu.scope(() => {
    let out = wavelets(x, given, wavelet, omega0);
    const base = baseBranch(x, baseActivation, baseWeight);
    if (base) out = add(out, base);
    if (!batchNorm) return out;
    const axes = out.shape.slice(0, -1).map((_, i) => i);
    return normalize(
      out,
      mean(out, { axes }),
      variance(out, { axes }),
      normEps,
      normWeight ?? 1,
      normBias ?? 0,
    );
  });
}

/**
 * `kanWavelet` with its weights, after Wav-KAN's: scale (1), translation (0), wavelet_weights (Kaiming uniform), and
 * where they are used base_weight (the same), bn.weight (1), bn.bias (0).
 */
export class WaveletKanLinear extends Component<typeof WAVELET_KAN_LINEAR> implements KanLayer {
  static readonly schema = WAVELET_KAN_LINEAR;

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: WaveletKanConfig): ParameterPlan {
    const { inFeatures, outFeatures, baseActivation, batchNorm } = WAVELET_KAN_LINEAR.read(config);
    const shape = [outFeatures, inFeatures];
    return {
      scale: { shape, init: 1 },
      translation: { shape, init: 0 },
      wavelet_weights: { shape, init: kaiming },
      ...(baseActivation === "none" ? {} : { base_weight: { shape, init: kaiming } }),
      ...(batchNorm ? { "bn.weight": ones(outFeatures), "bn.bias": zeros(outFeatures) } : {}),
    };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: WaveletKanConfig, parameters: Parameters) {
    super(WAVELET_KAN_LINEAR, config, WaveletKanLinear.plan(config), parameters);
  }

  /** x [..., in] f32; result [..., out]. @throws ShapeError, DTypeError */
  forward(x: Tensor): Tensor {
    const { wavelet, omega0, baseActivation, batchNorm, normEps } = this.config;
    const { scale, translation, wavelet_weights, base_weight, ...norm } = this.weights;
    const weights = {
      scale: scale!,
      translation: translation!,
      weight: wavelet_weights!,
      baseWeight: base_weight,
      normWeight: norm["bn.weight"],
      normBias: norm["bn.bias"],
    };
    return kanWavelet(x, weights, { wavelet, omega0, baseActivation, batchNorm, normEps });
  }
}
