import type { AttentionOptions } from "@x/attention";
import { maskMatrix, windowOf, type Pattern } from "@x/attention";
import type { Gpu } from "@x/kernels";

/** A case's pattern as options of attention: a window where it is one, else its mask. */
export function patternOptions(
  gpu: Gpu,
  pattern: unknown,
  heads: number,
  queries: number,
  keys: number,
  queryOffset: number,
): Partial<AttentionOptions> {
  if (pattern === undefined || pattern === null) return {};
  const window = windowOf(pattern as Pattern);
  if (window) return window;
  return {
    mask: gpu.tensor(
      maskMatrix(pattern as Pattern, { heads, queries, keys, queryOffset }),
      [heads, queries, keys],
      "i32",
    ),
  };
}
