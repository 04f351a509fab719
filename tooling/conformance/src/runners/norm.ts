import { attention } from "@x/attention";
import { ConfigError, linear, mul, tanh, relu, type Tensor } from "@x/kernels";
import {
  batchNorm,
  deepnormConstants,
  fusedAddNorm,
  layerNorm,
  partialRmsNorm,
  placement,
  qkNorm,
  rmsNorm,
  gemmaRmsNorm,
  scaleNorm,
  subLnGain,
  type DepthConfig,
  type NormKind,
  type Placement,
  type StreamMap,
  type Sublayer,
} from "@x/norm";
import { flag, number, optionalNumber, text } from "../golden/config.js";
import type { Runner, RunnerContext } from "../runner.js";

const one = (value: number): { shape: number[]; data: Float32Array } => ({
  shape: [1],
  data: Float32Array.of(value),
});

function normOf({ config, params }: RunnerContext, place: string): StreamMap {
  const kind = text(config, "norm");
  const weight = params[`${place}.weight`];
  const bias = params[`${place}.bias`];
  const eps = number(config, "eps", kind === "layer" ? 1e-5 : 1e-6);
  if (kind === "layer") return (x) => layerNorm(x, { weight, eps, bias });
  if (kind === "gemma") return (x) => gemmaRmsNorm(x, { weight, eps });
  if (kind === "rms") return (x) => rmsNorm(x, { weight, eps });
  throw new ConfigError("placement", `norm is ${JSON.stringify(kind)}`);
}

/** A sublayer of the golden cases. */
function sublayerOf({ config, params }: RunnerContext, kind: string, i: number): Sublayer {
  const p = (name: string): Tensor => params[`sub.${i}.${name}`]!;
  const optional = (name: string): Tensor | undefined => params[`sub.${i}.${name}`];
  const same: StreamMap = (x) => x;
  switch (kind) {
    case "linearTanh":
      return (x) => tanh(linear(x, p("w"), optional("b")));
    case "ffn":
      return (x, inner = same) =>
        linear(inner(relu(linear(x, p("w1"), optional("b1")))), p("w2"), optional("b2"));
    case "attention":
      return (x, inner = same) => {
        const [batch, seq, dim] = x.shape as [number, number, number];
        const heads = number(config, "numHeads");
        const split = (t: Tensor): Tensor => t.reshape([batch, seq, heads, dim / heads]);
        const out = attention(
          split(linear(x, p("wq"), optional("bq"))),
          split(linear(x, p("wk"))),
          split(linear(x, p("wv"), optional("bv"))),
          {
            causal: flag(config, "causal", false),
            layout: "bshd",
          },
        );
        return linear(inner(out.reshape([batch, seq, dim])), p("wo"), optional("bo"));
      };
    default:
      throw new ConfigError("placement", `sublayer ${JSON.stringify(kind)}`);
  }
}

const placed: Runner = (context) => {
  const { config, inputs } = context;
  const name = text(config, "placement") as Placement;
  const step = placement(name);
  const kinds = config["sublayers"] as string[];
  const depth = Object.fromEntries(
    Object.entries(config).filter(([key]) =>
      ["architecture", "side", "encoderLayers", "decoderLayers"].includes(key),
    ),
  ) as DepthConfig;
  const constants = name === "deepnorm" ? deepnormConstants(depth) : undefined;
  let x = inputs["x"]!;
  if (flag(config, "embedNorm", false)) x = normOf(context, "embedNorm")(x);
  kinds.forEach((kind, i) => {
    x = step(x, {
      sublayer: sublayerOf(context, kind, i),
      norm: normOf(context, `norm.${i}`),
      // Its parameters may all be absent: a plain norm is still a norm.
      normOut: name === "sandwich" || name === "periLn" ? normOf(context, `normOut.${i}`) : undefined,
      normInner: name === "subLn" ? normOf(context, `inner.${i}`) : undefined,
      alpha: constants?.alpha,
    });
  });
  if (flag(config, "finalNorm", false)) x = normOf(context, "finalNorm")(x);
  return {
    out: x,
    ...(constants ? { alpha: one(constants.alpha), beta: one(constants.beta) } : {}),
    ...(name === "subLn" && config["architecture"] !== undefined ? { gain: one(subLnGain(depth)) } : {}),
  };
};

export const norm: Readonly<Record<string, Runner>> = {
  layernorm: ({ config, inputs, params }) => ({
    out: layerNorm(inputs["x"]!, {
      weight: params["weight"],
      eps: number(config, "eps", 1e-5),
      bias: params["bias"],
    }),
  }),
  rmsnorm: ({ config, inputs, params }) => ({
    out: rmsNorm(inputs["x"]!, {
      weight: params["weight"],
      eps: number(config, "eps", 1e-6),
      epsPlacement: text(config, "epsPlacement", "inside") as "inside" | "outside",
      bias: params["bias"],
    }),
  }),
  prmsnorm: ({ config, inputs, params }) => ({
    out: partialRmsNorm(inputs["x"]!, {
      weight: params["weight"],
      p: number(config, "p"),
      rounding: text(config, "rounding", "floor") as "floor" | "ceil",
      eps: number(config, "eps", 1e-8),
      epsPlacement: text(config, "epsPlacement", "outside") as "inside" | "outside",
      bias: params["bias"],
    }),
  }),
  rmsnorm_gemma: ({ config, inputs, params }) => ({
    out: gemmaRmsNorm(inputs["x"]!, { weight: params["weight"], eps: number(config, "eps", 1e-6) }),
  }),
  scalenorm: ({ config, inputs, params }) => ({
    out: scaleNorm(inputs["x"]!, { g: params["g"]!, eps: number(config, "eps", 1e-5) }),
  }),
  batchnorm: ({ config, inputs, params }) => {
    const training = flag(config, "training", false);
    const { out, runningMean, runningVar } = batchNorm(inputs["x"]!, {
      training,
      runningMean: inputs["runningMean"]!,
      runningVar: inputs["runningVar"]!,
      weight: params["weight"],
      bias: params["bias"],
      mask: inputs["mask"],
      eps: number(config, "eps", 1e-5),
      momentum: number(config, "momentum", 0.1),
    });
    return training ? { out, runningMean, runningVar } : { out };
  },
  fused_add_norm: ({ config, inputs, params }) => {
    const eps = optionalNumber(config, "eps");
    const { out, residual } = fusedAddNorm(inputs["x"]!, inputs["residual"]!, {
      kind: text(config, "kind") as NormKind,
      ...(eps === undefined ? {} : { eps }),
      residualScale: number(config, "residualScale", 1),
      weight: params["weight"],
      bias: params["bias"],
    });
    return { residual, out };
  },
  qk_norm: ({ config, inputs, params }) => {
    const kind = text(config, "kind") as "rms" | "layer" | "gemma" | "l2";
    const scope = text(config, "scope", "head") as "head" | "all";
    const eps = optionalNumber(config, "eps");
    const of = (name: "q" | "k"): Tensor =>
      qkNorm(inputs[name]!, {
        kind,
        scope,
        ...(eps === undefined ? {} : { eps }),
        weight: params[`${name}Weight`],
        bias: params[`${name}Bias`],
      });
    const [q, k] = [of("q"), of("k")];
    if (kind !== "l2") return { q, k };
    const g = params["g"]!;
    const scaled = mul(q, g.size === 1 ? g : g.reshape([g.size, 1, 1]));
    return {
      q,
      k,
      out: attention(scaled, k, inputs["v"]!, {
        scale: 1,
        causal: flag(config, "causal", false),
        queryOffset: 0,
      }),
    };
  },
  placement_post_ln: placed,
  placement_pre_ln: placed,
  placement_sub_ln: placed,
  placement_sandwich: placed,
  placement_peri_ln: placed,
  deepnorm: placed,
};
