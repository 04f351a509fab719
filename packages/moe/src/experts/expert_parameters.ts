import {
  boolean,
  ConfigError,
  expectRecord,
  expectTensor,
  GATED_UNIT_FIELDS,
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
  unitOf,
  type ExpertActivation,
  type Experts,
  type Gate,
  type GatedExperts,
} from "./expert_weights.js";

/** Keys of a layer whose experts are gated. */
export const GATED_EXPERT_FIELDS = {
  dim: integer("Width of x.", { min: 1 }),
  hiddenDim: integer("Hidden width of one expert.", { min: 1 }),
  numExperts: integer("Number of experts.", { min: 1 }),
  gluKind: oneOf("The gated unit of the experts.", EXPERT_GATES, { defaultDoc: "swiglu" }),
  ...GATED_UNIT_FIELDS,
  expertBias: boolean("Learned biases of the experts' matrices.", { default: false }),
};

/** Keys of a layer whose experts are gated or plain. */
export const EXPERT_FIELDS = {
  ...GATED_EXPERT_FIELDS,
  expertKind: oneOf('"glu": wDown (g(wGate x) * wUp x); "ffn": w2 act(w1 x + b1) + b2.', ["glu", "ffn"], {
    default: "glu",
  }),
  activation: oneOf('Activation of experts of kind "ffn".', EXPERT_ACTIVATIONS, { defaultDoc: "relu" }),
};

interface GatedConfig {
  readonly dim: number;
  readonly hiddenDim: number;
  readonly numExperts: number;
  readonly gluKind: GluKind | undefined;
  readonly beta: number;
  readonly limit: number | undefined;
  readonly upOffset: number;
  readonly expertBias: boolean;
}

interface ExpertsConfig extends GatedConfig {
  readonly expertKind: "glu" | "ffn";
  readonly activation: ExpertActivation | undefined;
}

const stacked = (shape: readonly number[], role: "value" | "output"): PlannedParameter => ({
  shape,
  init: { std: MATRIX_STD },
  role,
});

/** The router's matrix [experts, dim]. */
export const routerPlan = ({
  numExperts,
  dim,
}: Pick<GatedConfig, "numExperts" | "dim">): PlannedParameter => ({
  shape: [numExperts, dim],
  init: { std: MATRIX_STD },
});

const biases = (numExperts: number, widths: Readonly<Record<string, number>>): ParameterPlan =>
  Object.fromEntries(
    Object.entries(widths).map(([name, width]) => [
      `experts.${name}_bias`,
      { shape: [numExperts, width], init: 0 },
    ]),
  );

/** Stacked gated experts: experts.{gate,up,down}_proj, with `expertBias` their _bias. @throws ConfigError */
export function gatedExpertsPlan(caller: string, config: GatedConfig): ParameterPlan {
  const { dim, hiddenDim, numExperts, expertBias } = config;
  unitOf(caller, config);
  const into = stacked([numExperts, hiddenDim, dim], "value");
  return {
    "experts.gate_proj": into,
    "experts.up_proj": into,
    "experts.down_proj": stacked([numExperts, dim, hiddenDim], "output"),
    ...(expertBias ? biases(numExperts, { gate_proj: hiddenDim, up_proj: hiddenDim, down_proj: dim }) : {}),
  };
}

/** Stacked experts: gated ones, or T5's experts.{wi,wo} with biases. @throws ConfigError */
export function expertsPlan(caller: string, config: ExpertsConfig): ParameterPlan {
  const { dim, hiddenDim, numExperts, expertKind, activation, expertBias } = config;
  const refuse = (key: string, kind: string): never => {
    throw new ConfigError(caller, `${key} is given; only expertKind "${kind}" has one`);
  };
  if (expertKind === "glu") {
    if (activation !== undefined) refuse("activation", "ffn");
    return gatedExpertsPlan(caller, config);
  }
  const { gluKind, beta, limit, upOffset } = config;
  if (gluKind !== undefined) refuse("gluKind", "glu");
  const numbers = { beta: beta !== 1, limit: limit !== undefined, upOffset: upOffset !== 0 };
  for (const [key, given] of Object.entries(numbers)) if (given) refuse(key, "glu");
  return {
    "experts.wi": stacked([numExperts, hiddenDim, dim], "value"),
    "experts.wo": stacked([numExperts, dim, hiddenDim], "output"),
    ...(expertBias ? biases(numExperts, { wi: hiddenDim, wo: dim }) : {}),
  };
}

/** The gated experts among a layer's parameters. */
export const gatedExpertsOf = ({ gluKind, beta, limit, upOffset }: Gate, p: Parameters): GatedExperts => ({
  kind: "glu",
  ...{ gluKind, beta, limit, upOffset },
  wGate: p["experts.gate_proj"]!,
  wUp: p["experts.up_proj"]!,
  wDown: p["experts.down_proj"]!,
  bGate: p["experts.gate_proj_bias"],
  bUp: p["experts.up_proj_bias"],
  bDown: p["experts.down_proj_bias"],
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
