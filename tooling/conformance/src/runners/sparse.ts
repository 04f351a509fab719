import { LongformerAttention, longNetAttention, LongT5Attention, type LongNetOptions } from "@x/attention";
import type { Tensor } from "@x/kernels";
import { configFor } from "../golden/config.js";
import type { Runner } from "../runner.js";

const named = (
  params: Readonly<Record<string, Tensor>>,
  names: Readonly<Record<string, string>>,
): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(params).map(([name, tensor]) => [names[name] ?? name, tensor]));

const PROJECTIONS = Object.fromEntries(
  ["q", "k", "v", "o"].flatMap((n) => [
    [`w${n}`, `${n}_proj.weight`],
    [`b${n}`, `${n}_proj.bias`],
    [`w${n}G`, `${n}_global_proj.weight`],
    [`b${n}G`, `${n}_global_proj.bias`],
  ]),
) as Readonly<Record<string, string>>;

const longformer: Runner = ({ config, inputs, params, host }) => {
  const layer = new LongformerAttention(configFor(LongformerAttention, config), named(params, PROJECTIONS));
  const x = inputs["x"]!;
  const [batch, seq] = x.shape as [number, number];
  const isGlobal = inputs["globalMask"] ? host("globalMask") : [];
  const globalTokens = Array.from({ length: batch }, (_, b) =>
    Array.from({ length: seq }, (_, i) => i).filter((i) => isGlobal[b * seq + i] === 1),
  );
  return { out: layer.forward(x, { keyMask: inputs["keyMask"], globalTokens }) };
};

const longt5: Runner = ({ config, inputs, params }) => {
  const layer = new LongT5Attention(
    configFor(LongT5Attention, config),
    named(params, {
      ...PROJECTIONS,
      relBias: "relative_attention_bias.weight",
      globalRelBias: "global_relative_attention_bias.weight",
      globalNorm: "global_input_layer_norm.weight",
    }),
  );
  return { out: layer.forward(inputs["x"]!, { keyMask: inputs["keyMask"] }) };
};

const longnet: Runner = ({ config, inputs }) => {
  const options = Object.fromEntries(Object.entries(config).filter(([key]) => key !== "numHeads"));
  return {
    out: longNetAttention(inputs["q"]!, inputs["k"]!, inputs["v"]!, options as unknown as LongNetOptions),
  };
};

/** Sparse attention modules. */
export const sparse: Readonly<Record<string, Runner>> = { longformer, longt5, longnet };
