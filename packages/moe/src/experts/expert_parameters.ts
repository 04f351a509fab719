import {
  boolean,
  ConfigError,
  expectRecord,
  expectTensor,
  integer,
  MATRIX_STD,
  oneOf,
  stack,
  type GluKind,
  type ParameterPlan,
  type Parameters,
  type PlannedParameter,
  type Tensor,
} from "@x/kernels";
import {
  EXPERT_ACTIVATIONS,
  EXPERT_GATES,
  type ExpertActivation,
  type Experts,
  type GatedExperts,
} from "./expert_weights.js";

/** Keys of a layer whose experts are gated. */
export const GATED_EXPERT_FIELDS = {
  dim: integer("Width of x.", { min: 1 }),
  hiddenDim: integer("Hidden width of one expert.", { min: 1 }),
  numExperts: integer("Number of experts.", { min: 1 }),
  gluKind: oneOf("The gated unit of the experts.", EXPERT_GATES, { defaultDoc: "swiglu" }),
};

/** Keys of a layer whose experts are gated or plain. */
export const EXPERT_FIELDS = {
  ...GATED_EXPERT_FIELDS,
  expertKind: oneOf('"glu": wDown (g(wGate x) * wUp x); "ffn": w2 act(w1 x + b1) + b2.', ["glu", "ffn"], {
    default: "glu",
  }),
  activation: oneOf('Activation of experts of kind "ffn".', EXPERT_ACTIVATIONS, { defaultDoc: "relu" }),
  expertBias: boolean('Learned b1 and b2 of experts of kind "ffn".', { default: false }),
};

interface GatedConfig {
  readonly dim: number;
  readonly hiddenDim: number;
  readonly numExperts: number;
  readonly gluKind: GluKind | undefined;
}

interface ExpertsConfig extends GatedConfig {
  readonly expertKind: "glu" | "ffn";
  readonly activation: ExpertActivation | undefined;
  readonly expertBias: boolean;
}

const stacked = (shape: readonly number[], role: "value" | "output"): PlannedParameter => ({
  shape,
  init: { std: MATRIX_STD },
  role,
});

/** The router's matrix [experts, dim]. */
export const routerPlan = ({ numExperts, dim }: GatedConfig): PlannedParameter => ({
  shape: [numExperts, dim],
  init: { std: MATRIX_STD },
});

/** Stacked gated experts: experts.{gate,up,down}_proj. */
export function gatedExpertsPlan({ dim, hiddenDim, numExperts }: GatedConfig): ParameterPlan {
  const into = stacked([numExperts, hiddenDim, dim], "value");
  return {
    "experts.gate_proj": into,
    "experts.up_proj": into,
    "experts.down_proj": stacked([numExperts, dim, hiddenDim], "output"),
  };
}

/** Stacked experts: gated ones, or T5's experts.{wi,wo} with biases. @throws ConfigError */
export function expertsPlan(caller: string, config: ExpertsConfig): ParameterPlan {
  const { dim, hiddenDim, numExperts, expertKind, activation, gluKind, expertBias } = config;
  if (expertKind === "glu") {
    if (activation !== undefined || expertBias)
      throw new ConfigError(
        caller,
        `${activation === undefined ? "expertBias" : "activation"} is given; only expertKind "ffn" has one`,
      );
    return gatedExpertsPlan(config);
  }
  if (gluKind !== undefined) throw new ConfigError(caller, 'gluKind is given; only expertKind "glu" has one');
  return {
    "experts.wi": stacked([numExperts, hiddenDim, dim], "value"),
    "experts.wo": stacked([numExperts, dim, hiddenDim], "output"),
    ...(expertBias
      ? {
          "experts.wi_bias": { shape: [numExperts, hiddenDim], init: 0 },
          "experts.wo_bias": { shape: [numExperts, dim], init: 0 },
        }
      : {}),
  };
}

/** The gated experts among a layer's parameters. */
export const gatedExpertsOf = (
  { gluKind }: { gluKind: GluKind | undefined },
  p: Parameters,
): GatedExperts => ({
  kind: "glu",
  wGate: p["experts.gate_proj"]!,
  wUp: p["experts.up_proj"]!,
  wDown: p["experts.down_proj"]!,
  gluKind,
});

/** The experts among a layer's parameters. */
export const expertsOf = (config: ExpertsConfig, p: Parameters): Experts =>
  config.expertKind === "glu"
    ? gatedExpertsOf(config, p)
    : {
        kind: "ffn",
        w1: p["experts.wi"]!,
        w2: p["experts.wo"]!,
        b1: p["experts.wi_bias"],
        b2: p["experts.wo_bias"],
        activation: config.activation,
      };

/**
 * Stacks experts that a checkpoint holds one by one: `experts.0.gate_proj.weight`, `experts.1.gate_proj.weight` and so
 * on become `experts.gate_proj` [experts, hidden, dim], which the caller owns. Other parameters are returned unchanged.
 *
 * @throws ConfigError naming the expert that is missing, ShapeError for experts of different shapes
 */
export function stackExperts(parameters: Parameters): Record<string, Tensor> {
  const caller = "stackExperts";
  expectRecord(caller, "parameters", parameters);
  for (const [name, given] of Object.entries(parameters)) expectTensor(caller, `parameter "${name}"`, given);
  const found: Record<string, Tensor> = {};
  const parts = new Map<string, Tensor[]>();
  let count = 0;
  for (const [name, tensor] of Object.entries(parameters)) {
    const [, expert, part] = /^experts\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
    if (expert === undefined || part === undefined) found[name] = tensor;
    else {
      const list = parts.get(part) ?? [];
      list[Number(expert)] = tensor;
      parts.set(part, list);
      count = Math.max(count, Number(expert) + 1);
    }
  }
  for (const [part, list] of parts)
    for (let i = 0; i < count; i++)
      if (!list[i]) throw new ConfigError(caller, `parameter experts.${i}.${part}.weight is missing`);
  for (const [part, list] of parts) {
    const { gpu } = list[0]!;
    found[`experts.${part}`] = gpu.keep(gpu.scope(() => stack(list)));
  }
  return found;
}
