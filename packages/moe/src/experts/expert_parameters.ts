import {
  checkConfig,
  ConfigError,
  expectInteger,
  expectOneOf,
  randomNormal,
  stack,
  takeParameter,
  type GluKind,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import type { ExpertActivation, Experts } from "./expert_weights.js";

/** How random weights are drawn. */
export interface InitOptions {
  readonly seed: number;
  /** Number of the first random stream; a layer takes a few from here. Default 0. */
  readonly stream?: number;
  /** Deviation of the weights (default 0.02), and of those that write into the residual stream (default `std`). */
  readonly std?: number;
  readonly outStd?: number;
}

/** Shapes and kind of a layer's experts. */
export interface ExpertsConfig {
  readonly dim: number;
  readonly hiddenDim: number;
  readonly numExperts: number;
  /** "ffn" (default): w2 act(w1 x); "glu": wDown (g(wGate x) * wUp x). */
  readonly expertKind?: "ffn" | "glu";
  /** Of "ffn"; default "relu". */
  readonly activation?: ExpertActivation;
  /** Of "glu"; default "swiglu". */
  readonly gluKind?: GluKind;
}

const EXPERTS_KEYS: readonly string[] = [
  "dim",
  "hiddenDim",
  "numExperts",
  "expertKind",
  "activation",
  "gluKind",
];

const EXPERT_KINDS = ["ffn", "glu"] as const;

/** Draws tensors of one layer, each from a stream of its own. */
export function drawer(
  who: string,
  gpu: Gpu,
  init: InitOptions,
): (shape: readonly number[], std: number) => Tensor {
  checkConfig(who, init, ["seed", "stream", "std", "outStd"]);
  const { seed, stream = 0 } = init;
  let at = stream;
  return (shape, std) => gpu.keep(randomNormal(gpu, shape, { seed, stream: at++, std }));
}

/** Random experts. @throws ConfigError */
export function initExperts(
  who: string,
  config: ExpertsConfig,
  draw: (shape: readonly number[], std: number) => Tensor,
  { std = 0.02, outStd = std }: InitOptions,
): Experts {
  const { dim, hiddenDim, numExperts, expertKind = "ffn" } = config;
  expectOneOf(who, "expertKind", expertKind, EXPERT_KINDS);
  for (const [name, value] of Object.entries({ dim, hiddenDim, numExperts }))
    expectInteger(who, name, value, 1);
  const into = [numExperts, hiddenDim, dim];
  const out = [numExperts, dim, hiddenDim];
  if (expertKind === "glu")
    return {
      kind: "glu",
      wGate: draw(into, std),
      wUp: draw(into, std),
      wDown: draw(out, outStd),
      ...(config.gluKind ? { gluKind: config.gluKind } : {}),
    };
  return {
    kind: "ffn",
    w1: draw(into, std),
    w2: draw(out, outStd),
    ...(config.activation ? { activation: config.activation } : {}),
  };
}

/** The experts' parameters by name, stacked: experts.{gate,up,down}_proj, or T5's experts.{wi,wo} with biases. */
export function expertParameters(experts: Experts): Record<string, Tensor> {
  if (experts.kind === "glu")
    return {
      "experts.gate_proj": experts.wGate,
      "experts.up_proj": experts.wUp,
      "experts.down_proj": experts.wDown,
    };
  const { w1, w2, b1, b2 } = experts;
  return {
    "experts.wi": w1,
    "experts.wo": w2,
    ...(b1 ? { "experts.wi_bias": b1 } : {}),
    ...(b2 ? { "experts.wo_bias": b2 } : {}),
  };
}

/**
 * Experts from parameters: stacked under `experts.gate_proj` and so on, or one by one as in a checkpoint
 * (`experts.0.gate_proj.weight`, `experts.1...`), which are stacked into new tensors of the caller's care.
 *
 * @throws ConfigError naming what is missing
 */
export function takeExperts(
  who: string,
  parameters: Readonly<Record<string, Tensor>>,
  config: Partial<Pick<ExpertsConfig, "expertKind" | "activation" | "gluKind">>,
): Experts {
  const take = (part: string): Tensor => {
    if (parameters[`experts.${part}`] || !parameters[`experts.0.${part}.weight`])
      return takeParameter(who, parameters, `experts.${part}`);
    const list: Tensor[] = [];
    for (let i = 0; parameters[`experts.${i}.${part}.weight`]; i++)
      list.push(parameters[`experts.${i}.${part}.weight`]!);
    const named = Object.keys(parameters).filter((name) =>
      new RegExp(`^experts\\.\\d+\\.${part}\\.weight$`).test(name),
    );
    if (named.length !== list.length)
      throw new ConfigError(who, `parameter experts.${list.length}.${part}.weight is missing`);
    const gpu = list[0]!.gpu;
    return gpu.keep(gpu.scope(() => stack(list)));
  };
  const gated = Object.keys(parameters).some(
    (n) => n.endsWith("gate_proj") || n.endsWith("gate_proj.weight"),
  );
  const { expertKind = gated ? "glu" : "ffn" } = config;
  expectOneOf(who, "expertKind", expertKind, EXPERT_KINDS);
  if (expertKind === "glu")
    return {
      kind: "glu",
      wGate: take("gate_proj"),
      wUp: take("up_proj"),
      wDown: take("down_proj"),
      ...(config.gluKind ? { gluKind: config.gluKind } : {}),
    };
  return {
    kind: "ffn",
    w1: take("wi"),
    w2: take("wo"),
    b1: parameters["experts.wi_bias"],
    b2: parameters["experts.wo_bias"],
    ...(config.activation ? { activation: config.activation } : {}),
  };
}

/** A layer's configuration without what describes its experts. */
function withoutExperts<T extends Partial<ExpertsConfig>>(config: T): Omit<T, keyof ExpertsConfig> {
  return Object.fromEntries(Object.entries(config).filter(([key]) => !EXPERTS_KEYS.includes(key))) as Omit<
    T,
    keyof ExpertsConfig
  >;
}

/** What the constructor of a layer with a router and experts takes. */
type Routed<C> = [options: Omit<C, keyof ExpertsConfig>, router: Tensor, experts: Experts];

/** Random experts, then a random router; `keys` are the layer's own. @throws ConfigError */
export function initRouted<C extends ExpertsConfig>(
  who: string,
  gpu: Gpu,
  config: C,
  keys: readonly string[],
  init: InitOptions,
): Routed<C> {
  checkConfig(who, config, [...EXPERTS_KEYS, ...keys]);
  const draw = drawer(who, gpu, init);
  const experts = initExperts(who, config, draw, init);
  const router = draw([config.numExperts, config.dim], init.std ?? 0.02);
  return [withoutExperts(config), router, experts];
}

/** A router of that name and the experts beside it. @throws ConfigError naming what is missing */
export function takeRouted<C extends Partial<ExpertsConfig>>(
  who: string,
  config: C,
  parameters: Readonly<Record<string, Tensor>>,
  router: string,
): Routed<C> {
  return [
    withoutExperts(config),
    takeParameter(who, parameters, router),
    takeExperts(who, parameters, config),
  ];
}
