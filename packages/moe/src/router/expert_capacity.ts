import {
  argsort,
  boolean,
  ConfigError,
  defineKernel,
  div,
  expectTensors,
  grid1d,
  groupBy,
  integer,
  maximum,
  number,
  oneOf,
  schema,
  slice,
  stopGradient,
  sum,
  where,
  type Config,
  type ConfigOf,
  type ResolvedOf,
  type Tensor,
  flatMain,
} from "@x/kernels";
import { expectChoices, groupByField, groupCount, type GroupBy } from "./choices.js";

const SHARED_FIELDS = {
  capacity: integer("Slots of an expert in a group, in place of all the rest.", { min: 0, optional: true }),
  rounding: oneOf("Rounding of the share.", ["ceil", "floor"], { default: "ceil" }),
  minCapacity: integer("Least number of slots.", { min: 0, default: 0 }),
};
const FACTOR = "Multiple of the even share that an expert takes; or give `capacity`.";

/** Keys of the capacity in the options of a function. */
export const CAPACITY_FIELDS = {
  capacityFactor: number(FACTOR, { min: 0, optional: true }),
  ...SHARED_FIELDS,
};
/** Keys of the capacity in the configuration of a layer. */
export const LAYER_CAPACITY_FIELDS = {
  capacityFactor: number(FACTOR, { min: 0, defaultDoc: "1.25 where no capacity is given" }),
  ...SHARED_FIELDS,
  groupBy: groupByField("sequence"),
};

export type CapacityOptions = ConfigOf<typeof CAPACITY_FIELDS>;

type LayerCapacity = CapacityOptions & { readonly groupBy: GroupBy };

/** The capacity that a layer's configuration says. */
export function layerCapacity({
  capacityFactor = 1.25,
  capacity,
  rounding,
  minCapacity,
  groupBy,
}: LayerCapacity): LayerCapacity {
  return capacity === undefined ? { capacityFactor, rounding, minCapacity, groupBy } : { capacity, groupBy };
}

/** Slots of an expert in a group, for a caller that has read its options. @throws ConfigError */
export function slotsOf(
  caller: string,
  options: ResolvedOf<typeof CAPACITY_FIELDS>,
  choices: number,
  experts: number,
): number {
  const { capacityFactor, capacity, rounding, minCapacity } = options;
  if (capacity !== undefined) return capacity;
  if (capacityFactor === undefined)
    throw new ConfigError(caller, "neither capacityFactor nor capacity is given; it needs one of them");
  const share = (capacityFactor * choices) / experts;
  return Math.max(rounding === "ceil" ? Math.ceil(share) : Math.floor(share), minCapacity);
}

const COUNT = schema("capacityOf", {
  ...CAPACITY_FIELDS,
  choices: integer("Choices of the group that are counted.", { min: 0 }),
  numExperts: integer("Number of experts.", { min: 1 }),
});

/**
 * Slots of an expert in a group of so many choices: capacityFactor * choices / numExperts, rounded, at least
 * `minCapacity`; or `capacity`. In double precision.
 *
 * @throws ConfigError
 */
export function capacityOf(options: Config<typeof COUNT>): number {
  const { choices, numExperts, ...capacity } = COUNT.read(options);
  return slotsOf(COUNT.name, capacity, choices, numExperts);
}

const OPTIONS = schema("expertCapacity", {
  numExperts: integer("Number of experts.", { min: 1 }),
  ...CAPACITY_FIELDS,
  countChoices: boolean("Count all choices of the group, not only its tokens.", { default: true }),
  priority: oneOf("Which choices come first.", ["choiceFirst", "tokenFirst", "weight"], {
    default: "choiceFirst",
  }),
  groupBy: groupByField("sequence"),
  renormalizeAfterDrop: boolean("Divide a token's weights by the sum of what is left.", { default: false }),
});
export type ExpertCapacityOptions = Config<typeof OPTIONS>;

export interface ExpertCapacityResult {
  /** i32 [..., k]: slot of each choice at its expert; -1 if dropped. */
  readonly slot: Tensor;
  /** i32 [..., k]: 1 where the choice has a slot. */
  readonly kept: Tensor;
  /** i32 [..., k]: the experts that are left; -1 where dropped. */
  readonly placed: Tensor;
  /** [..., k]: 0 where dropped. */
  readonly weights: Tensor;
  /** Slots of an expert in a group. */
  readonly capacity: number;
  /** i32 [groups, experts]: choices of the expert, and those that found a slot. */
  readonly requested: Tensor;
  readonly accepted: Tensor;
}

interface KeysVariant {
  readonly priority: "choiceFirst" | "tokenFirst" | "weight";
}

/** Keys (group, expert) of the choices in the order in which they are placed, and which choice each is. */
const keysKernel = defineKernel({
  name: "capacityKeys",
  bindings: (v: KeysVariant) => ({
    indices: "read i32",
    ...(v.priority === "weight" ? { order: "read i32" } : {}),
    keys: "write i32",
    choices: "write u32",
    slots: "write i32",
  }),
  params: { count: "u32", tokens: "u32", k: "u32", experts: "u32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("i", "params.count")}
  let group = i / (params.tokens * params.k);
  let at = i % (params.tokens * params.k);
  ${
    v.priority === "tokenFirst"
      ? "let choice = i;"
      : `let token = ${v.priority === "weight" ? "u32(order[group * params.tokens + at % params.tokens])" : "at % params.tokens"};
  let choice = (group * params.tokens + token) * params.k + at / params.tokens;`
  }
  let expert = indices[choice];
  let valid = expert >= 0 && u32(expert) < params.experts;
  keys[i] = select(-1, i32(group * params.experts) + expert, valid);
  choices[i] = choice;
  slots[i] = -1;
}`,
});

/** The rank of a choice among those with its key is its slot. */
const placeKernel = defineKernel({
  name: "capacityPlace",
  bindings: {
    keys: "read i32",
    choices: "read u32",
    offsets: "read u32",
    order: "read u32",
    slots: "write i32",
  },
  params: { count: "u32", keyCount: "u32", capacity: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("i", "params.count || i >= offsets[params.keyCount]")}
  let at = order[i];
  let rank = i - offsets[keys[at]];
  if (rank < params.capacity) { slots[choices[at]] = i32(rank); }
}`,
});

const keptKernel = defineKernel({
  name: "capacityKept",
  bindings: { indices: "read i32", slots: "read i32", kept: "write i32", placed: "write i32" },
  params: { count: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("i", "params.count")}
  let has = slots[i] >= 0;
  kept[i] = select(0, 1, has);
  placed[i] = select(-1, indices[i], has);
}`,
});

const countsKernel = defineKernel({
  name: "capacityCounts",
  bindings: { offsets: "read u32", requested: "write i32", accepted: "write i32" },
  params: { keyCount: "u32", capacity: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("i", "params.keyCount")}
  let n = offsets[i + 1u] - offsets[i];
  requested[i] = i32(n);
  accepted[i] = i32(min(n, params.capacity));
}`,
});

/**
 * Which choices fit: each expert has `capacity` slots in a group; choices take the next free slot of their expert in
 * the order of `priority` and are dropped when there is none. A stable sort by expert on the GPU gives every choice
 * its rank, so nothing is read back.
 *
 * indices i32 and weights [batch, seq, k]; an index outside the experts takes no slot. "choiceFirst": all first
 * choices in token order, then all second ones (GShard, arXiv:2006.16668, algorithm 1); "tokenFirst": token by token;
 * "weight": as choiceFirst, tokens in falling order of their first weight (V-MoE, arXiv:2106.05974, section 4).
 * Capacity: Switch, arXiv:2101.03961, equation 3. Gradients flow through the weights that are kept.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function expertCapacity(
  indices: Tensor,
  weights: Tensor,
  options: ExpertCapacityOptions,
): ExpertCapacityResult {
  const who = OPTIONS.name;
  expectTensors(who, { indices, weights });
  const {
    numExperts,
    countChoices,
    priority,
    groupBy: grouping,
    renormalizeAfterDrop,
    ...slots
  } = OPTIONS.read(options);
  const k = expectChoices(who, indices, weights);
  const groups = groupCount(who, "indices", indices, grouping);
  const count = indices.size;
  const tokens = count / k / groups;
  const capacity = slotsOf(who, slots, countChoices ? tokens * k : tokens, numExperts);
  const { gpu } = indices;
  return gpu.scope(() => {
    const each = grid1d(Math.ceil(count / 64));
    const [slot, kept, placed] = [0, 1, 2].map(() => gpu.empty(indices.shape, "i32")) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const keys = gpu.empty([count], "i32");
    const choices = gpu.empty([count], "u32");
    const first = (): Tensor => slice(stopGradient(weights), { axis: -1, end: 1 }).reshape([groups, tokens]);
    gpu.run(keysKernel, {
      variant: { priority },
      bindings: {
        indices,
        ...(priority === "weight" ? { order: argsort(first(), { descending: true }) } : {}),
        keys,
        choices,
        slots: slot,
      },
      params: { count, tokens, k, experts: numExperts },
      workgroups: each,
    });
    const keyCount = groups * numExperts;
    const { offsets, order } = groupBy(keys, keyCount);
    gpu.run(placeKernel, {
      bindings: { keys, choices, offsets, order, slots: slot },
      params: { count, keyCount, capacity: Math.min(capacity, count) },
      workgroups: each,
    });
    gpu.run(keptKernel, {
      bindings: { indices, slots: slot, kept, placed },
      params: { count },
      workgroups: each,
    });
    const requested = gpu.empty([groups, numExperts], "i32");
    const accepted = gpu.empty([groups, numExperts], "i32");
    gpu.run(countsKernel, {
      bindings: { offsets, requested, accepted },
      params: { keyCount, capacity: Math.min(capacity, count) },
      workgroups: grid1d(Math.ceil(keyCount / 64)),
    });
    const left = where(kept, weights, 0);
    return {
      slot,
      kept,
      placed,
      weights: renormalizeAfterDrop
        ? div(left, maximum(sum(left, { axes: -1, keepDims: true }), 1e-9))
        : left,
      capacity,
      requested,
      accepted,
    };
  });
}
