import { defineKernel, grid1d, type Kernel } from "@x/kernels";
import { collectBindings, collectParams, collectText, type CollectVariant } from "./wgsl/collect.wgsl.js";
import type { Problem } from "./problem.js";

export const collectKernel: Kernel<CollectVariant> = defineKernel({
  name: "attentionCollect",
  bindings: collectBindings,
  params: collectParams,
  wgsl: collectText,
});

/** Lines of the matrix of scores, one for each invocation. */
export interface Lines {
  readonly lines: number;
  readonly workgroups: [number, number];
}

export function linesOf({ batch, heads, queries, keys }: Problem, kind: CollectVariant["line"]): Lines {
  const lines = batch * heads * (kind === "column" ? keys : queries);
  return { lines, workgroups: grid1d(Math.ceil(lines / 64)) };
}
