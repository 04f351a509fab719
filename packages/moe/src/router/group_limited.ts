import {
  add,
  ConfigError,
  defineKernel,
  expectInteger,
  expectOneOf,
  grid1d,
  noGrad,
  sum,
  topk,
  type Kernel,
  type Tensor,
  flatMain,
} from "@x/kernels";

export interface GroupLimit {
  /** Consecutive equal groups of experts; default 1. */
  readonly numGroups?: number;
  /** Groups that remain; default all. */
  readonly topkGroups?: number;
  /** Score of a group: its best expert, or the sum of its two best. */
  readonly groupScore: "max" | "top2";
}

/** Scores with those of the groups that were not chosen at the lowest float32. */
const maskKernel: Kernel<undefined> = defineKernel({
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
 */
export function groupLimitedTopk(
  who: string,
  scores: Tensor,
  topK: number,
  limit: GroupLimit,
  bias?: Tensor,
): Tensor {
  const [tokens, experts] = scores.shape as [number, number];
  const { numGroups = 1, topkGroups = numGroups, groupScore } = limit;
  expectInteger(who, "numGroups", numGroups, 1, experts);
  expectInteger(who, "topkGroups", topkGroups, 1, numGroups);
  expectOneOf(who, "groupScore", groupScore, ["max", "top2"]);
  if (experts % numGroups !== 0)
    throw new ConfigError(who, `${experts} experts do not make ${numGroups} equal groups`);
  const width = experts / numGroups;
  expectInteger(who, "topK", topK, 1, topkGroups * width);
  if (numGroups > 1 && groupScore === "top2" && width < 2)
    throw new ConfigError(who, 'groupScore "top2" needs at least two experts in a group');
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
