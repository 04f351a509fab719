import {
  fastKan,
  kan as kanLayer,
  kanActivationRegularization,
  kanBspline,
  kanChebyshev,
  kanFourier,
  kanGridUpdate,
  kanWavelet,
  katRational,
  kanWeightRegularization,
  type SplineOptions,
} from "@x/ffn";
import { ConfigError } from "@x/kernels";
import { number, without } from "../golden/config.js";
import type { Runner } from "../runner.js";

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
      { ...config, degree: number(config, "degree") },
    ),
  }),
  fast_kan: ({ config, inputs, params }) => ({
    out: fastKan(inputs["x"]!, { ...params, splineWeight: params["splineWeight"]! }, config),
  }),
  kat_rational: ({ config, inputs, params }) => ({
    out: katRational(
      inputs["x"]!,
      { numerator: params["numerator"]!, denominator: params["denominator"]! },
      config,
    ),
  }),
  kan_fourier: ({ config, inputs, params }) => ({
    // A "bias" in the configuration repeats that the param is there.
    out: kanFourier(
      inputs["x"]!,
      { coefficients: params["coefficients"]!, bias: params["bias"] },
      without(config, "bias"),
    ),
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
  kan_grid_update: ({ config, inputs, params, host }) => {
    const weight = params["splineWeight"]!;
    const [outputs = 0, features = 0, count = 0] = weight.shape;
    const { grid, splineWeight } = kanGridUpdate(
      {
        x: host("x"),
        features,
        splineWeight: host("splineWeight"),
        grid: inputs["grid"] ? host("grid") : undefined,
      },
      config,
    );
    return {
      grid: { shape: [features, grid.length / features], data: Float32Array.from(grid) },
      splineWeight: { shape: [outputs, features, count], data: Float32Array.from(splineWeight) },
    };
  },
  kan_regularization: ({ config, inputs, params }) => {
    const { kind = "weights", ...options } = config;
    const { splineWeight, splineScaler, baseWeight } = params;
    if (kind === "activations")
      return {
        ...kanActivationRegularization(
          inputs["x"]!,
          { splineWeight: splineWeight!, splineScaler, baseWeight, grid: inputs["grid"] },
          options,
        ),
      };
    if (kind === "weights") {
      // The weights alone decide: the keys of the grid say nothing here.
      const grid = ["gridSize", "splineOrder", "gridRange", "baseActivation"];
      return { ...kanWeightRegularization(splineWeight!, without(options, ...grid)) };
    }
    throw new ConfigError(
      "kan_regularization",
      `kind is ${JSON.stringify(kind)}; it must be weights or activations`,
    );
  },
};
