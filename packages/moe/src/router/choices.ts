import {
  boolean,
  ConfigError,
  defineKernel,
  DTypeError,
  expectDType,
  expectShape,
  expectTensor,
  flatMain,
  grid1d,
  integer,
  oneOf,
  schema,
  ShapeError,
  showShape,
  tensor,
  type Config,
  type Field,
  type Tensor,
} from "@x/kernels";

/** Which tokens share a budget: those of one sequence, or all. */
export type GroupBy = "batch" | "sequence";

/** The key `groupBy` of a call's options. */
export const groupByField = (value: GroupBy): Field<GroupBy, "default"> =>
  oneOf<GroupBy, { readonly default: GroupBy }>(
    "Which tokens share a budget: those of one sequence, or all.",
    ["batch", "sequence"],
    { default: value },
  );

/** Number of groups of tensors [batch, seq, ...]: one of the whole batch, or one for each sequence. */
export function groupCount(who: string, name: string, t: Tensor, groupBy: GroupBy): number {
  if (groupBy === "batch") return 1;
  if (t.rank < 3)
    throw new ShapeError(
      who,
      `${name} has shape ${showShape(t.shape)}; groups by sequence need [batch, seq, ...]`,
    );
  return t.shape[0]!;
}

interface CountVariant {
  readonly mask: boolean;
}

const countKernel = defineKernel({
  name: "countChoices",
  bindings: (v: CountVariant) => ({
    indices: "read i32",
    ...(v.mask ? { mask: "read i32" } : {}),
    out: "read_write atomic<u32>",
  }),
  params: { tokens: "u32", groupTokens: "u32", k: "u32", buckets: "u32", width: "u32", distinct: "u32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("t", "params.tokens")}
  ${v.mask ? "if (mask[t] == 0) { return; }" : ""}
  for (var j = 0u; j < params.k; j++) {
    let index = indices[t * params.k + j];
    if (index < 0 || u32(index) >= params.buckets * params.width) { continue; }
    let bucket = u32(index) / params.width;
    var first = true;
    for (var i = 0u; i < j * params.distinct; i++) {
      let before = indices[t * params.k + i];
      if (before >= 0 && u32(before) / params.width == bucket) { first = false; }
    }
    if (first) { atomicAdd(&out[t / params.groupTokens * params.buckets + bucket], 1u); }
  }
}`,
});

const OPTIONS = schema("countChoices", {
  groups: integer("Equal consecutive groups of tokens.", { min: 1 }),
  experts: integer("Number of experts.", { min: 1 }),
  mask: tensor("i32 [tokens]: choices of tokens with 0 do not count.", { optional: true }),
  width: integer("Experts are counted in blocks of this many.", { min: 1, default: 1 }),
  distinct: boolean("A token counts once for a block, however many of its experts it chose.", {
    default: false,
  }),
});
export type CountOptions = Config<typeof OPTIONS>;

/**
 * Counts the choices of each expert (or block of experts) in each group, outside the tape; an index outside the experts
 * is not counted.
 *
 * indices i32 [..., k]; result u32 [groups, experts / width].
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function countChoices(indices: Tensor, options: CountOptions): Tensor {
  const who = OPTIONS.name;
  const k = expectChoices(who, indices);
  const { groups, experts, mask, width, distinct } = OPTIONS.read(options);
  const { gpu } = indices;
  const tokens = indices.size / k;
  if (tokens % groups !== 0)
    throw new ConfigError(who, `${tokens} tokens do not make ${groups} equal groups`);
  if (experts % width !== 0)
    throw new ConfigError(who, `${experts} experts do not make equal blocks of ${width}`);
  if (mask) {
    expectShape(who, "mask", mask, [tokens]);
    expectDType(who, "mask", mask, "i32");
  }
  const buckets = experts / width;
  const out = gpu.zeros([groups, buckets], "u32");
  gpu.run(countKernel, {
    variant: { mask: mask !== undefined },
    bindings: { indices, mask, out },
    params: { tokens, groupTokens: tokens / groups, k, buckets, width, distinct: distinct ? 1 : 0 },
    workgroups: grid1d(Math.ceil(tokens / 64)),
  });
  return out;
}

/** Check choices [..., k] of experts: their type, and that weights lie beside them. */
export function expectChoices(who: string, indices: Tensor, weights?: Tensor): number {
  expectTensor(who, "indices", indices);
  if (indices.dtype !== "i32") throw new DTypeError(who, `indices are ${indices.dtype}; they must be i32`);
  const k = indices.shape.at(-1) ?? 0;
  if (k === 0)
    throw new ShapeError(who, `indices have shape ${showShape(indices.shape)}; they must be [..., topK]`);
  if (weights !== undefined) {
    expectDType(who, "weights", weights, "f32", "f16");
    expectShape(who, "weights", weights, indices.shape);
  }
  return k;
}
