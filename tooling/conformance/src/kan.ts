import {
  kan as kanLayer,
  kanBspline,
  kanChebyshev,
  kanFourier,
  kanWavelet,
  type KanChebyshevOptions,
  type SplineOptions,
} from "@x/ffn";
import type { Runner } from "./runner.js";

/** The functions check their options themselves, unknown keys included. */
export const kan: Readonly<Record<string, Runner>> = {
  kan_bspline: ({ config, inputs }) => ({
    bases: kanBspline(inputs["x"]!, { ...(config as SplineOptions), grid: inputs["grid"] }),
  }),
  kan: ({ config, inputs, params }) => ({
    out: kanLayer(
      inputs["x"]!,
      {
        splineWeight: params["splineWeight"]!,
        splineScaler: params["splineScaler"],
        baseWeight: params["baseWeight"],
        grid: inputs["grid"],
      },
      config,
    ),
  }),
  kan_chebyshev: ({ config, inputs, params }) => ({
    out: kanChebyshev(
      inputs["x"]!,
      { coefficients: params["coefficients"]! },
      config as unknown as KanChebyshevOptions,
    ),
  }),
  kan_fourier: ({ config, inputs, params }) => ({
    out: kanFourier(inputs["x"]!, { coefficients: params["coefficients"]!, bias: params["bias"] }, config),
  }),
  kan_wavelet: ({ config, inputs, params }) => ({
    out: kanWavelet(
      inputs["x"]!,
      {
        scale: params["scale"]!,
        translation: params["translation"]!,
        weight: params["weight"]!,
        baseWeight: params["baseWeight"],
        normWeight: params["normWeight"],
        normBias: params["normBias"],
      },
      config,
    ),
  }),
};
