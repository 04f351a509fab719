import {
  attention as attend,
  attentionOutputs,
  maskMatrix,
  type AttentionOptions,
  type Pattern,
} from "@x/attention";
import { causalConv1d, linear, silu, transpose, type Tensor } from "@x/kernels";
import { flag, number, optionalNumber } from "./config.js";
import { patternOptions } from "./patterns.js";
import type { Runner, RunnerContext } from "./runner.js";

function optionsOf(
  { config, inputs, params, gpu }: RunnerContext,
  heads: number,
  queries: number,
  keys: number,
): AttentionOptions {
  const scale = optionalNumber(config, "scale");
  const queryOffset = optionalNumber(config, "queryOffset");
  return {
    causal: flag(config, "causal", false),
    ...(scale === undefined ? {} : { scale }),
    ...(queryOffset === undefined ? {} : { queryOffset }),
    softcap: number(config, "softcap", 0),
    bias: inputs["bias"],
    mask: inputs["mask"],
    keyMask: inputs["keyMask"],
    docs: inputs["docs"],
    sinks: params["sinks"],
    ...patternOptions(gpu, config["pattern"], heads, queries, keys, queryOffset ?? keys - queries),
  };
}

const sdpa: Runner = (context) => {
  const { config, inputs } = context;
  const q = inputs["q"]!;
  const options = optionsOf(context, q.shape[1]!, q.shape[2]!, inputs["k"]!.shape[2]!);
  const { out, lse } = attentionOutputs(q, inputs["k"]!, inputs["v"]!, options);
  return flag(config, "lse", false) ? { out, lse } : { out };
};

const projected: Runner = (context) => {
  const { config, inputs, params } = context;
  const x = inputs["x"]!;
  const source = inputs["context"] ?? x;
  const heads = number(config, "numHeads");
  const kvHeads = number(config, "numKvHeads", heads);
  const d = number(config, "headDim");
  const split = (t: Tensor, n: number): Tensor => t.reshape([t.shape[0]!, t.shape[1]!, n, d]);
  const q = split(linear(x, params["wq"]!, params["bq"]), heads);
  const k = split(linear(source, params["wk"]!, params["bk"]), kvHeads);
  const v = split(linear(source, params["wv"]!, params["bv"]), kvHeads);
  const out = attend(q, k, v, {
    ...optionsOf(context, heads, x.shape[1]!, source.shape[1]!),
    layout: "bshd",
  });
  const merged = linear(out.reshape([x.shape[0]!, x.shape[1]!, heads * d]), params["wo"]!, params["bo"]);
  if (!flag(config, "cacheOut", false)) return { out: merged };
  return { out: merged, cacheK: swap(k), cacheV: swap(v) };
};

/** [b, n, h, d] to [b, h, n, d]. */
const swap = (t: Tensor): Tensor => transpose(t, [0, 2, 1, 3]);

export const attention: Readonly<Record<string, Runner>> = {
  sdpa,
  sliding_window: sdpa,
  block_local: sdpa,
  dilated_window: sdpa,
  random_global: sdpa,
  bigbird: sdpa,
  sparse_transformer: sdpa,
  combined: sdpa,
  mha: projected,
  cross_attention: projected,
  mqa: projected,
  gqa: projected,
  causal_conv1d: ({ config, inputs, params }) => {
    const { out, state } = causalConv1d(inputs["x"]!, params["weight"]!, {
      bias: params["bias"],
      state: inputs["state"],
    });
    return { out: config["activation"] === "silu" ? silu(out) : out, state };
  },
};

export const masks: Readonly<Record<string, Runner>> = {
  patterns: ({ config }) => {
    const [heads, queries] = [number(config, "numHeads"), number(config, "n")];
    const keys = number(config, "m", queries);
    const queryOffset = number(config, "queryOffset", keys - queries);
    return {
      mask: {
        shape: [heads, queries, keys],
        data: maskMatrix(config["pattern"] as Pattern, { heads, queries, keys, queryOffset }),
      },
    };
  },
};
