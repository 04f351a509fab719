import { ACTIVATIONS, type ActivationName, type GluKind } from "@x/kernels";
import { GLU_KINDS } from "@x/ffn";
import type { CapacityOptions, Experts } from "@x/moe";
import type { Fields } from "../../config/index.js";
import type { Weights } from "../contract.js";
import { outStd, STD, type ParameterSet } from "../parameters.js";

/** Keys that describe a block's experts. */
export const EXPERT_KEYS = [
  "type",
  "hiddenDim",
  "numExperts",
  "expertKind",
  "activation",
  "gluKind",
] as const;

/** Keys of the capacity in training. */
export const CAPACITY_KEYS = ["capacityFactor", "capacity", "rounding", "minCapacity", "groupBy"] as const;

export interface Stacks {
  readonly experts: Experts;
  readonly numExperts: number;
  /** Parameters of one expert. */
  readonly each: number;
}

/** Stacked experts: gated under Llama's names ("glu", the default), or plain ones under T5's (`expertKind` "ffn"). */
export function expertStacks(f: Fields, set: ParameterSet, { model, gain }: Weights): Stacks {
  const hidden = f.integer("hiddenDim");
  const numExperts = f.integer("numExperts");
  const kind = f.oneOf("expertKind", ["glu", "ffn"], "glu");
  const into = [numExperts, hidden, model.dim];
  const out = [numExperts, model.dim, hidden];
  const each = (kind === "glu" ? 3 : 2) * hidden * model.dim;
  if (kind === "ffn") {
    const activation = f.oneOf("activation", Object.keys(ACTIVATIONS) as ActivationName[], "relu");
    const w1 = set.normal("experts.wi", into, STD * gain);
    const w2 = set.normal("experts.wo", out, outStd(model) * gain);
    return { experts: { kind, w1, w2, activation }, numExperts, each };
  }
  const gluKind = f.oneOf<GluKind>("gluKind", GLU_KINDS, "swiglu");
  const wGate = set.normal("experts.gate_proj", into, STD * gain);
  const wUp = set.normal("experts.up_proj", into, STD * gain);
  const wDown = set.normal("experts.down_proj", out, outStd(model) * gain);
  return { experts: { kind, wGate, wUp, wDown, gluKind }, numExperts, each };
}

/** The capacity of a block in training. */
export function capacityFields(f: Fields): CapacityOptions & { readonly groupBy: "batch" | "sequence" } {
  const capacity = f.optionalInteger("capacity");
  return {
    ...(capacity === undefined ? { capacityFactor: f.number("capacityFactor", 1.25) } : { capacity }),
    rounding: f.oneOf<"ceil" | "floor">("rounding", ["ceil", "floor"], "ceil"),
    minCapacity: f.integer("minCapacity", 0, 0),
    groupBy: f.oneOf("groupBy", ["batch", "sequence"], "sequence"),
  };
}
