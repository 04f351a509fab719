import {
  checkConfig,
  defineKernel,
  gather,
  grid1d,
  linear,
  mul,
  scatterAdd,
  softmax,
  topk,
  transpose,
  type Gpu,
  type Kernel,
  type Module,
  type Tensor,
  flatMain,
} from "@x/kernels";
import { groupCount, type GroupBy } from "../router/choices.js";
import { CAPACITY_KEYS, capacityOf, type CapacityOptions } from "../router/expert_capacity.js";
import {
  expertParameters,
  initRouted,
  takeRouted,
  type ExpertsConfig,
  type InitOptions,
} from "../experts/expert_parameters.js";
import { expectRouter, expertCount, type Experts } from "../experts/expert_weights.js";
import { runExperts } from "../experts/experts.js";

export interface ExpertChoiceOptions extends CapacityOptions {
  /** Tokens among which an expert chooses; default "sequence". */
  readonly groupBy?: GroupBy;
}

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
const rowsKernel: Kernel<undefined> = defineKernel({
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
  const who = "expertChoice";
  checkConfig(who, options, [...CAPACITY_KEYS, "groupBy"]);
  const { groupBy = "sequence", ...capacity } = options;
  const dim = x.shape.at(-1) ?? 0;
  const numExperts = expertCount(who, experts, dim);
  expectRouter(who, x, wRouter, numExperts);
  const groups = groupCount(who, "x", x, groupBy);
  const all = x.size / dim;
  const tokens = all / groups;
  const c = Math.min(capacityOf(who, capacity, tokens, numExperts), tokens);
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

export interface ExpertChoiceMoeConfig extends ExpertsConfig, ExpertChoiceOptions {}

/** `expertChoice` with its parameters: gate.weight, experts stacked. */
export class ExpertChoiceMoe implements Module {
  readonly options: ExpertChoiceOptions;
  readonly #router: Tensor;
  readonly #experts: Experts;

  constructor(options: ExpertChoiceOptions, router: Tensor, experts: Experts) {
    this.options = options;
    this.#router = router;
    this.#experts = experts;
  }

  static init(gpu: Gpu, config: ExpertChoiceMoeConfig, init: InitOptions): ExpertChoiceMoe {
    return new ExpertChoiceMoe(
      ...initRouted("ExpertChoiceMoe", gpu, config, [...CAPACITY_KEYS, "groupBy"], init),
    );
  }

  static fromParameters(
    config: Partial<ExpertsConfig> & ExpertChoiceOptions,
    parameters: Readonly<Record<string, Tensor>>,
  ): ExpertChoiceMoe {
    return new ExpertChoiceMoe(...takeRouted("ExpertChoiceMoe", config, parameters, "gate.weight"));
  }

  forward(x: Tensor): ExpertChoiceResult {
    return expertChoice(x, this.#router, this.#experts, this.options);
  }

  parameters(): Record<string, Tensor> {
    return { "gate.weight": this.#router, ...expertParameters(this.#experts) };
  }
}
