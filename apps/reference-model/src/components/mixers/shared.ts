import type { Fields } from "../../config/index.js";
import type { MixerState } from "../contract.js";

/** `numHeads`, and `headDim` (dim / numHeads). */
export function heads(f: Fields, dim: number): { numHeads: number; headDim: number } {
  const numHeads = f.integer("numHeads");
  if (f.get("headDim") === undefined && dim % numHeads !== 0)
    f.fail("numHeads", `is ${numHeads}; without headDim it must divide dim, ${dim}`);
  return { numHeads, headDim: f.integer("headDim", dim / numHeads) };
}

/** `heads`, and `numKvHeads` (numHeads), which divides them. */
export function groupedHeads(
  f: Fields,
  dim: number,
): { numHeads: number; numKvHeads: number; headDim: number } {
  const numHeads = f.integer("numHeads");
  const numKvHeads = f.integer("numKvHeads", numHeads);
  if (numHeads % numKvHeads !== 0)
    f.fail("numKvHeads", `is ${numKvHeads}; it must divide numHeads, ${numHeads}`);
  return { ...heads(f, dim), numKvHeads };
}

/** A mixer's state around the memory that its mechanism keeps in `held`. */
export function stateAround<T>(
  memory: T,
  held: { clear(): void; dispose(): void },
  rest: Pick<MixerState, "bytesPerToken" | "countsOnHost">,
): MixerState & { readonly memory: T } {
  return {
    memory,
    ...rest,
    clear: () => {
      held.clear();
    },
    dispose: () => {
      held.dispose();
    },
  };
}
