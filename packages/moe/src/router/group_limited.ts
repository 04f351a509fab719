import {
  add,
  ConfigError,
  defineKernel,
  expectInteger,
  expectShape,
  grid1d,
  integer,
  noGrad,
  oneOf,
  schema,
  sum,
  tensor,
  topk,
  type Config,
  type Tensor,
  flatMain,
} from "@x/kernels";

const OPTIONS = schema("groupLimitedTopk", {
  topK: integer("Experts of a token.", { min: 1 }),
  numGroups: integer("Consecutive equal groups of experts.", { min: 1, default: 1 }),
  topkGroups: integer("Groups that remain.", { min: 1, defaultDoc: "numGroups" }),
  groupScore: oneOf("Score of a group: its best expert, or the sum of its two best.", ["max", "top2"], {
    default: "max",
  }),
  bias: tensor("[experts]: added to the scores.", { optional: true }),
});
export type GroupLimitedTopkOptions = Config<typeof OPTIONS>;

/** Which groups of experts a token may choose from. */
export interface GroupLimit {
  readonly numGroups: number;
  readonly topkGroups: number;
  readonly groupScore: "max" | "top2";
}

/** Checks that so many experts make the groups, and that the groups which remain have topK of them. */
export function expectGroups(
  caller: string,
  experts: number,
  topK: number,
  { numGroups, topkGroups, groupScore }: GroupLimit,
): void {
  expectInteger(caller, "numGroups", numGroups, 1, experts);
  expectInteger(caller, "topkGroups", topkGroups, 1, numGroups);
  if (experts % numGroups !== 0)
    throw new ConfigError(caller, `${experts} experts do not make ${numGroups} equal groups`);
  const width = experts / numGroups;
  expectInteger(caller, "topK", topK, 1, topkGroups * width);
  if (numGroups > 1 && groupScore === "top2" && width < 2)
    throw new ConfigError(caller, 'groupScore "top2" needs at least two experts in a group');
}

/** Scores with those of the groups that were not chosen at the lowest float32. */
const maskKernel = defineKernel({
  name: "groupLimitedMask",
  bindings: { scores: "read f32", chosen: "read i32", out: "write f32" },
  params: { count: "u32", experts: "u32", width: "u32", k: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("i", "params.count")}
  let own = i32(i % params.experts / params.width);
  var value = -3.4028234e38;
  for (var j = 0u; j < params.k; j++) {
    if (chosen[i / params.experts * params.k + j] == own) { value = scores[i]; }
  }
  out[i] = value;
}`,
});

/**
 * The topK best of scores + bias, from the best groups of experts only; i32 [tokens, topK], outside the tape.
 * Experts of other groups count as minus infinity, so they lose to negative scores too.
 *
 * scores [tokens, experts], bias [experts]. DeepSeek-V2, arXiv:2405.04434, section 2.1.2; DeepSeek-V3,
 * arXiv:2412.19437, section 2.1.2.
 *
 * @throws ShapeError, ConfigError
 */
export function groupLimitedTopk(scores: Tensor, options: GroupLimitedTopkOptions): Tensor {
  const who = OPTIONS.name;
  expectShape(who, "scores", scores, ["tokens", "experts"]);
  const { topK, numGroups, topkGroups = numGroups, groupScore, bias } = OPTIONS.read(options);
  const [tokens, experts] = scores.shape as [number, number];
  expectGroups(who, experts, topK, { numGroups, topkGroups, groupScore });
  if (bias) expectShape(who, "bias", bias, [experts]);
  const width = experts / numGroups;
  const { gpu } = scores;
  return noGrad(() =>
    gpu.scope(() => {
      const choice = bias ? add(scores, bias) : scores;
      if (numGroups === 1) return topk(choice, topK).indices;
      const best = topk(choice.reshape([tokens, numGroups, width]), groupScore === "max" ? 1 : 2).values;
      const chosen = topk(sum(best, { axes: -1 }), topkGroups).indices;
      const masked = gpu.empty(scores.shape);
      gpu.run(maskKernel, {
        bindings: { scores: choice, chosen, out: masked },
        params: { count: masked.size, experts, width, k: topkGroups },
        workgroups: grid1d(Math.ceil(masked.size / 64)),
      });
      return topk(masked, topK).indices;
    }),
  );
}
