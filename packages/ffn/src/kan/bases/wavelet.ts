import {
  add,
  applyOp,
  checkConfig,
  ConfigError,
  e,
  elementwise,
  expectDType,
  expectNumber,
  expectOneOf,
  expectShape,
  grid1d,
  mean,
  sumMiddle,
  variance,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import { baseBranch, type BaseActivation } from "../kan.js";
import { expectFeatures } from "./basis.js";
import {
  checkShape,
  INIT_KEYS,
  kaiming,
  SHAPE_KEYS,
  takeWeights,
  without,
  type KanInit,
  type KanLayer,
  type KanShape,
} from "../layer.js";
import {
  TOKENS,
  waveletBackwardEdges,
  waveletBackwardInput,
  waveletForward,
  type WaveletKind,
} from "./wavelet.wgsl.js";

export type { WaveletKind } from "./wavelet.wgsl.js";
export const WAVELETS: readonly WaveletKind[] = ["mexicanHat", "morlet", "dog"];

export interface KanWaveletWeights {
  /** Width of each edge's wavelet, not 0: [out, in] */
  readonly scale: Tensor;
  /** Its centre: [out, in] */
  readonly translation: Tensor;
  /** Its amplitude: [out, in] */
  readonly weight: Tensor;
  /** [out, in], if there is a base branch. */
  readonly baseWeight?: Tensor | undefined;
  /** [out], with `batchNorm`. */
  readonly normWeight?: Tensor | undefined;
  readonly normBias?: Tensor | undefined;
}

export interface KanWaveletOptions {
  /** Default "mexicanHat". */
  readonly wavelet?: WaveletKind;
  /** Frequency of "morlet"; default 5. */
  readonly omega0?: number;
  /** Adds act(x) baseWeight^T; default "none". */
  readonly baseActivation?: BaseActivation;
  /** Normalise each output over all tokens, with the statistics of this batch. */
  readonly batchNorm?: boolean;
  /** Default 1e-5. */
  readonly normEps?: number;
}

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
 * output over all leading axes (biased variance) and applies normWeight and normBias.
 *
 * Every edge scales its argument itself, so there is no matrix product; the kernels sum block by block and nothing of
 * size [tokens, out, in] is made, forward or backward.
 *
 * x [..., in] f32; result [..., out]. Bozorgasl and Chen 2024, arXiv:2405.12832.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function kanWavelet(x: Tensor, weights: KanWaveletWeights, options: KanWaveletOptions = {}): Tensor {
  const who = "kanWavelet";
  checkConfig(who, options, ["wavelet", "omega0", "baseActivation", "batchNorm", "normEps"]);
  const { wavelet = "mexicanHat", omega0 = 5, baseActivation = "none", batchNorm = false } = options;
  const { normEps = 1e-5 } = options;
  expectOneOf(who, "wavelet", wavelet, WAVELETS);
  expectNumber(who, "omega0", omega0);
  expectNumber(who, "normEps", normEps, 0);
  const features = expectFeatures(who, x);
  const { baseWeight, normWeight, normBias } = weights;
  const names: Record<string, number> = {};
  for (const name of ["weight", "translation", "scale"] as const) {
    expectDType(who, name, weights[name], "f32");
    expectShape(who, name, weights[name], ["out", features], names);
  }
  const outputs = names["out"]!;
  if (!batchNorm && (normWeight || normBias))
    throw new ConfigError(who, "normWeight or normBias is given, but batchNorm is not true");
  for (const [name, t] of Object.entries({ normWeight, normBias }))
    if (t) expectShape(who, name, t, [outputs]);
  return x.gpu.scope(() => {
    let out = wavelets(x, weights, wavelet, omega0);
    const base = baseBranch(who, x, baseActivation, baseWeight, outputs);
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

export interface WaveletKanConfig extends KanShape, KanWaveletOptions {}

/**
 * `kanWavelet` with its weights, after Wav-KAN's: scale, translation, wavelet_weights, and where they are used
 * base_weight, bn.weight, bn.bias.
 */
export class WaveletKanLinear implements KanLayer {
  readonly config: WaveletKanConfig;
  readonly #options: KanWaveletOptions;
  readonly #weights: Record<string, Tensor>;

  constructor(config: WaveletKanConfig, weights: Readonly<Record<string, Tensor>>) {
    const who = "WaveletKanLinear";
    const keys = ["wavelet", "omega0", "baseActivation", "batchNorm", "normEps"];
    checkConfig(who, config, [...SHAPE_KEYS, ...keys]);
    checkShape(who, config);
    this.config = config;
    this.#options = without(config, "inFeatures", "outFeatures");
    const { inFeatures, outFeatures, baseActivation = "none", batchNorm = false } = config;
    const edges = [outFeatures, inFeatures];
    this.#weights = takeWeights(who, weights, {
      scale: edges,
      translation: edges,
      wavelet_weights: edges,
      base_weight: baseActivation === "none" ? undefined : edges,
      "bn.weight": batchNorm ? [outFeatures] : undefined,
      "bn.bias": batchNorm ? [outFeatures] : undefined,
    });
  }

  /** Scale 1, translation 0, weights Kaiming uniform. */
  static init(gpu: Gpu, config: WaveletKanConfig, init: KanInit): WaveletKanLinear {
    checkShape("WaveletKanLinear", config);
    checkConfig("WaveletKanLinear", init, INIT_KEYS);
    const { seed, stream = 0 } = init;
    const { inFeatures, outFeatures, baseActivation = "none", batchNorm = false } = config;
    const shape = [outFeatures, inFeatures];
    return new WaveletKanLinear(config, {
      scale: gpu.keep(gpu.full(shape, 1)),
      translation: gpu.keep(gpu.zeros(shape)),
      wavelet_weights: kaiming(gpu, config, seed, stream),
      ...(baseActivation === "none" ? {} : { base_weight: kaiming(gpu, config, seed, stream + 1) }),
      ...(batchNorm
        ? { "bn.weight": gpu.keep(gpu.full([outFeatures], 1)), "bn.bias": gpu.keep(gpu.zeros([outFeatures])) }
        : {}),
    });
  }

  forward(x: Tensor): Tensor {
    const w = this.#weights;
    const weights = {
      scale: w["scale"]!,
      translation: w["translation"]!,
      weight: w["wavelet_weights"]!,
      baseWeight: w["base_weight"],
      normWeight: w["bn.weight"],
      normBias: w["bn.bias"],
    };
    return kanWavelet(x, weights, this.#options);
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#weights };
  }
}
