import { concat, type BindingSpec, type ParamType, type Tensor } from "@x/kernels";
import type { ScoreVariant } from "./wgsl/scores.wgsl.js";

/**
 * A kernel may bind as few as 8 tensors (WebGPU's promise). Where its masks and terms are more than fit beside its
 * operands, they are copied one behind the other into two buffers, `ints` and `floats`.
 */
export interface Folded<V> {
  readonly variant: V;
  readonly bindings: Readonly<Record<string, Tensor>>;
  /** Where each starts: `<name>_at`. */
  readonly params: Readonly<Record<string, number>>;
}

/**
 * The bindings that fit into `room`: as they are; or with what has at most a number per row or key folded, which costs
 * next to nothing; or with everything folded. `ints` is what a pattern reads, and stays in front.
 */
export function fold<V extends ScoreVariant>(
  variant: V,
  given: Readonly<Record<string, Tensor>>,
  room: number,
): Folded<V> {
  const names = Object.keys(given).filter((name) => name !== "ints");
  const small = names.filter((name) => {
    const term = name.startsWith("term") ? variant.terms[Number(name.slice(4))] : undefined;
    return term ? term.kind === "relative" && term.axes === "h" : name !== "mask" && name !== "sums_grad";
  });
  /** What each binding holds. */
  const grouped = (folded: readonly string[]): Map<string, string[]> => {
    const groups = new Map<string, string[]>(given["ints"] ? [["ints", ["ints"]]] : []);
    for (const name of names) {
      const group = !folded.includes(name) ? name : given[name]!.dtype === "i32" ? "ints" : "floats";
      groups.set(group, [...(groups.get(group) ?? []), name]);
    }
    return groups;
  };
  const folded = [[], small].find((some) => grouped(some).size <= room) ?? names;
  const bindings: Record<string, Tensor> = {};
  const params: Record<string, number> = {};
  for (const [group, list] of grouped(folded)) {
    const tensors = list.map((name) => given[name]!);
    bindings[group] = tensors.length > 1 ? concat(tensors.map((t) => t.alias([t.size]))) : tensors[0]!;
    let at = 0;
    for (const name of list) {
      params[`${name}_at`] = at;
      at += given[name]!.size;
    }
  }
  return { variant: { ...variant, folded }, bindings, params };
}

/** Element of an i32 tensor, wherever it is bound. */
export const int = (v: ScoreVariant, name: string, index: string): string => element(v, "ints", name, index);
/** Element of an f32 tensor, wherever it is bound. */
export const float = (v: ScoreVariant, name: string, index: string): string =>
  element(v, "floats", name, index);

const element = (v: ScoreVariant, group: string, name: string, index: string): string =>
  v.folded.includes(name) ? `${group}[params.${name}_at + u32(${index})]` : `${name}[${index}]`;

/** Bindings of a kernel, of which some are folded. */
export const foldedBindings = (
  v: ScoreVariant,
  bindings: Readonly<Record<string, BindingSpec>>,
): Record<string, BindingSpec> =>
  Object.fromEntries(
    Object.entries(bindings).map(([name, spec]) => [
      v.folded.includes(name) ? (spec === "read i32" ? "ints" : "floats") : name,
      spec,
    ]),
  );

export const foldedParams = (v: ScoreVariant): Record<string, ParamType> =>
  Object.fromEntries(v.folded.map((name) => [`${name}_at`, "u32"]));
