import {
  Component,
  defineKernel,
  expectTensor,
  gather,
  grid1d,
  linear,
  mul,
  scatterAdd,
  schema,
  softmax,
  topk,
  transpose,
  type Config,
  type ParameterPlan,
  type Parameters,
  type Tensor,
  flatMain,
} from "@x/kernels";
import { EXPERT_FIELDS, expertsOf, expertsPlan, routerPlan } from "../experts/expert_parameters.js";
import { expectRouted, type Experts } from "../experts/expert_weights.js";
import { runExperts } from "../experts/experts.js";
import { groupByField, groupCount } from "../router/choices.js";
import { CAPACITY_FIELDS, LAYER_CAPACITY_FIELDS, layerCapacity, slotsOf } from "../router/expert_capacity.js";

const OPTIONS = schema("expertChoice", { ...CAPACITY_FIELDS, groupBy: groupByField("sequence") });
const EXPERT_CHOICE_MOE = schema("ExpertChoiceMoe", { ...EXPERT_FIELDS, ...LAYER_CAPACITY_FIELDS });
export type ExpertChoiceOptions = Config<typeof OPTIONS>;
export type ExpertChoiceMoeConfig = Config<typeof EXPERT_CHOICE_MOE>;

export interface ExpertChoiceResult {
  /** In the shape of x; 0 for a token that no expert took. */
  readonly out: Tensor;
  /** i32 [groups, experts, c]: positions in the group, the best first. */
  readonly tokenIndices: Tensor;
  /** [groups, experts, c]: their probabilities. */
  readonly gates: Tensor;
  /** [..., experts] */
  readonly logits: Tensor;
  readonly probs: Tensor;
}

/** Row of x of each choice, by expert, then group: i32 [experts, groups, c]. */
const rowsKernel = defineKernel({
  name: "expertChoiceRows",
  bindings: { tokenIndices: "read i32", rows: "write i32" },
  params: { count: "u32", experts: "u32", groups_: "u32", c: "u32", tokens: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("i", "params.count")}
  let g = i / params.c % params.groups_;
  let e = i / (params.c * params.groups_);
  rows[i] = i32(g * params.tokens) + tokenIndices[(g * params.experts + e) * params.c + i % params.c];
}`,
});

/**
 * Expert choice: every expert takes its c best tokens of the group by p[:, e], p the softmax over experts, so the load
 * is even by construction; out_t = sum over the experts that took t of p[t, e] expert_e(x_t). Not causal: a token's
 * fate depends on later ones.
 *
 * x [batch, seq, dim], wRouter [experts, dim]; c is the capacity of one choice a token, at most the group's tokens.
 * Zhou et al. 2022, arXiv:2202.09368.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function expertChoice(
  x: Tensor,
  wRouter: Tensor,
  experts: Experts,
  options: ExpertChoiceOptions,
): ExpertChoiceResult {
  const who = OPTIONS.name;
  const numExperts = expectRouted(who, x, wRouter, experts);
  const { groupBy, ...capacity } = OPTIONS.read(options);
  const dim = x.shape.at(-1)!;
  const groups = groupCount(who, "x", x, groupBy);
  const all = x.size / dim;
  const tokens = all / groups;
  const c = Math.min(slotsOf(who, capacity, tokens, numExperts), tokens);
  const { gpu } = x;
  return gpu.scope(() => {
    const logits = linear(x, wRouter);
    const probs = softmax(logits);
    if (c === 0) {
      const none = [groups, numExperts, 0];
      return {
        out: gpu.zeros(x.shape),
        tokenIndices: gpu.empty(none, "i32"),
        gates: gpu.empty(none),
        logits,
        probs,
      };
    }
    const byExpert = transpose(probs.reshape([groups, tokens, numExperts]), [0, 2, 1]);
    const { values: gates, indices: tokenIndices } = topk(byExpert, c);
    const count = groups * numExperts * c;
    const rows = gpu.empty([count], "i32");
    gpu.run(rowsKernel, {
      bindings: { tokenIndices, rows },
      params: { count, experts: numExperts, groups_: groups, c, tokens },
      workgroups: grid1d(Math.ceil(count / 64)),
    });
    const starts = Array.from({ length: numExperts + 1 }, (_, e) => e * groups * c);
    const y = runExperts(
      gather(x.reshape([all, dim]), rows),
      experts,
      gpu.tensor(starts, [numExperts + 1], "u32"),
    );
    const out = scatterAdd(mul(y, transpose(gates, [1, 0, 2]).reshape([count, 1])), rows, all);
    return { out: out.reshape(x.shape), tokenIndices, gates, logits, probs };
  });
}

/** `expertChoice` with its parameters: stacked experts and gate.weight. */
export class ExpertChoiceMoe extends Component<typeof EXPERT_CHOICE_MOE> {
  static readonly schema = EXPERT_CHOICE_MOE;

  /** Name, shape and initial distribution of every parameter. @throws ConfigError */
  static plan(config: ExpertChoiceMoeConfig): ParameterPlan {
    const read = EXPERT_CHOICE_MOE.read(config);
    return { ...expertsPlan(EXPERT_CHOICE_MOE.name, read), "gate.weight": routerPlan(read) };
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: ExpertChoiceMoeConfig, parameters: Parameters) {
    super(EXPERT_CHOICE_MOE, config, ExpertChoiceMoe.plan(config), parameters);
  }

  /** The stacked experts. */
  get experts(): Experts {
    return expertsOf(this.config, this.weights);
  }

  /** x [batch, seq, dim]; returns the shape of x. @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor): Tensor {
    expectTensor("ExpertChoiceMoe.forward", "x", x);
    return x.gpu.scope(() => this.outputs(x).out);
  }

  /** `forward` with what the experts chose. @throws ShapeError, DTypeError, ConfigError */
  outputs(x: Tensor): ExpertChoiceResult {
    return expertChoice(x, this.weights["gate.weight"]!, this.experts, layerCapacity(this.config));
  }
}
