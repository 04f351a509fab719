import { topk } from "../moe.reference.js";

export interface CapacityCase {
  readonly groups: number;
  readonly tokens: number;
  readonly k: number;
  readonly experts: number;
  readonly capacity: number;
  readonly priority: "choiceFirst" | "tokenFirst" | "weight";
}

/** Slots of choices, one after another. */
export function capacitySlots(
  indices: ArrayLike<number>,
  weights: ArrayLike<number>,
  c: CapacityCase,
): number[] {
  const { groups, tokens, k, experts, capacity, priority } = c;
  const slots = new Array<number>(groups * tokens * k).fill(-1);
  for (let g = 0; g < groups; g++) {
    const used = new Array<number>(experts).fill(0);
    const place = (t: number, j: number): void => {
      const choice = (g * tokens + t) * k + j;
      const e = indices[choice]!;
      if (e >= 0 && e < experts && used[e]! < capacity) slots[choice] = used[e]!++;
    };
    const all = Array.from({ length: tokens }, (_, t) => t);
    if (priority === "tokenFirst") for (const t of all) for (let j = 0; j < k; j++) place(t, j);
    else {
      const order =
        priority === "weight"
          ? topk(
              all.map((t) => weights[(g * tokens + t) * k]!),
              tokens,
            )
          : all;
      for (let j = 0; j < k; j++) for (const t of order) place(t, j);
    }
  }
  return slots;
}
