import { ffnMemory, keyCovariance, memit, rome, type ActivationKind } from "@x/ffn";
import { flag, number, optionalNumber, text, without } from "../golden/config.js";
import type { Runner } from "../runner.js";

export const memory: Readonly<Record<string, Runner>> = {
  ffn_memory: ({ config, inputs, params }) => {
    const { w1, w2, b1, b2, embedding } = params;
    const beta = params["beta"] ?? optionalNumber(config, "beta");
    return {
      ...ffnMemory(
        inputs["x"]!,
        { w1: w1!, w2: w2!, b1, b2, beta, embedding },
        {
          ...without(config, "bias", "beta"),
          activation: text(config, "activation", "relu") as ActivationKind,
        },
      ),
    };
  },
  key_covariance: ({ config, inputs }) => ({
    covariance: keyCovariance(inputs["keys"]!, { mean: flag(config, "mean", true) }),
  }),
  rome: ({ config, inputs, params }) => ({
    ...rome(
      params["w"]!,
      { covariance: inputs["covariance"]!, key: inputs["key"]!, value: inputs["value"]! },
      { ridge: number(config, "ridge", 0) },
    ),
  }),
  memit: ({ config, inputs, params }) => ({
    w: memit(
      params["w"]!,
      { covariance: inputs["covariance"]!, keys: inputs["keys"]!, values: inputs["values"]! },
      config,
    ),
  }),
};
