import { ConfigError } from "@x/kernels";
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

/** The state that a mixer made, given back to it. @throws ConfigError for another mixer's */
export function stateOf<S extends MixerState>(
  made: { readonly prototype: S; readonly name: string },
  state: MixerState | undefined,
): S | undefined {
  if (state === undefined || isMade(made, state)) return state;
  throw new ConfigError("mixer", `the state is not a ${made.name}; it must be the one that createState gave`);
}

const isMade = <S extends MixerState>(made: { readonly prototype: S }, state: MixerState): state is S =>
  Object.prototype.isPrototypeOf.call(made.prototype, state);
