import {
  applyOp,
  defineKernel,
  expectDType,
  expectInteger,
  expectShape,
  flatMain,
  grid1d,
  groupBy,
  integer,
  rowElement,
  rowMain,
  rowPrelude,
  rowVariant,
  schema,
  tensor,
  type Config,
  type Kernel,
  type RowVariant,
  type Tensor,
} from "@x/kernels";
import { expectChoices } from "../router/choices.js";

const PLAN = schema("dispatch", {
  k: integer("Choices of a token.", { min: 1 }),
  offsets: tensor("u32 [experts + 1]: where each expert's rows start."),
  choices: tensor("i32 [choices]: choice (token * k + rank) of each sorted row; -1 past the last."),
  rows: tensor(
    "i32 [choices]: sorted row of each choice, the inverse of `choices`; -1 for a choice of no expert.",
  ),
});
/** Choices of experts, sorted by expert; within an expert in the order of the tokens. */
export type Dispatch = Config<typeof PLAN>;

function readPlan(caller: string, plan: Dispatch): Dispatch {
  const read = PLAN.read(plan, `${caller}, plan`);
  expectDType(caller, "choices", read.choices, "i32");
  expectDType(caller, "rows", read.rows, "i32");
  expectShape(caller, "rows", read.rows, [read.choices.size]);
  return read;
}

/** Builds the permutation and its inverse; every thread writes elements of its own. */
const rowsKernel = defineKernel({
  name: "dispatchRows",
  bindings: {
    order: "read u32",
    offsets: "read u32",
    indices: "read i32",
    choices: "write i32",
    rows: "write i32",
  },
  params: { count: "u32", experts: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("i", "params.count")}
  let used = i < offsets[params.experts];
  choices[i] = select(-1, i32(order[i]), used);
  if (used) { rows[order[i]] = i32(i); }
  if (indices[i] < 0 || u32(indices[i]) >= params.experts) { rows[i] = -1; }
}`,
});

/**
 * Sort the choices of tokens by expert, on the GPU and outside the tape: what `gatherTokens` takes to the experts and
 * `combine` brings back.
 *
 * indices i32 [tokens, k]; one outside 0..experts-1 is a choice of no expert.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function dispatch(indices: Tensor, experts: number): Dispatch {
  expectChoices("dispatch", indices);
  expectInteger("dispatch", "experts", experts, 1);
  const { gpu } = indices;
  const k = indices.shape.at(-1) ?? 1;
  const count = indices.size;
  const { offsets, order } = groupBy(indices, experts);
  const choices = gpu.empty([count], "i32");
  const rows = gpu.empty([count], "i32");
  gpu.run(rowsKernel, {
    bindings: { order, offsets, indices, choices, rows },
    params: { count, experts },
    workgroups: grid1d(Math.ceil(count / 64)),
  });
  order.dispose();
  return { k, offsets, choices, rows };
}

interface MoveVariant {
  /** Elements are vec4. */
  readonly vec: boolean;
  readonly weighted: boolean;
}

const element = (v: { vec: boolean }): string => (v.vec ? "vec4<f32>" : "f32");

/** out[t] = sum over the choices c of token t of weight[c] y[row of c], in the order of the choices. */
const combineKernel = defineKernel({
  name: "moeCombine",
  bindings: (v: MoveVariant) => ({
    rows: "read i32",
    ...(v.weighted ? { weights: "read f32" } : {}),
    y: `read ${element(v)}`,
    out: `write ${element(v)}`,
  }),
  params: { count: "u32", dim: "u32", k: "u32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("i", "params.count")}
  let first = i / params.dim * params.k;
  var total = ${v.vec ? "vec4f()" : "0.0"};
  for (var c = first; c < first + params.k; c++) {
    let row = rows[c];
    if (row >= 0) { total += ${v.weighted ? "weights[c] * " : ""}y[u32(row) * params.dim + i % params.dim]; }
  }
  out[i] = total;
}`,
});

/** out[r] = weight[c] x[token of c] for the choice c of sorted row r; zeros where there is none. */
const gatherKernel = defineKernel({
  name: "moeGather",
  bindings: (v: MoveVariant) => ({
    choices: "read i32",
    ...(v.weighted ? { weights: "read f32" } : {}),
    x: `read ${element(v)}`,
    out: `write ${element(v)}`,
  }),
  params: { count: "u32", dim: "u32", k: "u32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("i", "params.count")}
  let choice = choices[i / params.dim];
  var value = ${v.vec ? "vec4f()" : "0.0"};
  if (choice >= 0) {
    value = ${v.weighted ? "weights[choice] * " : ""}x[u32(choice) / params.k * params.dim + i % params.dim];
  }
  out[i] = value;
}`,
});

function move(
  kernel: Kernel<MoveVariant>,
  dim: number,
  k: number,
  shape: readonly number[],
  bindings: Readonly<Record<string, Tensor>>,
): Tensor {
  const { gpu } = Object.values(bindings)[0]!;
  const vec = dim % 4 === 0;
  const out = gpu.empty(shape);
  const count = vec ? out.size / 4 : out.size;
  gpu.run(kernel, {
    variant: { vec, weighted: "weights" in bindings },
    bindings: { ...bindings, out },
    params: { count, dim: vec ? dim / 4 : dim, k },
    workgroups: grid1d(Math.ceil(count / 64)),
  });
  return out;
}

/** out[c] = y[row of c] . grad[token of c]; 0 for a choice of no expert. */
const weightsKernel = defineKernel({
  name: "moeCombineWeights",
  bindings: (v: RowVariant) => ({
    rows: "read i32",
    y: `read ${rowElement(v)}`,
    grad: `read ${rowElement(v)}`,
    out: "write f32",
  }),
  params: { rows: "u32", width: "u32", k: "u32" },
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  /* wgsl */ `
  let source = rows[row];
  let from_ = u32(max(source, 0)) * pieces;
  let token = row / params.k * pieces;
  var part = T();
  for (var i = lane; i < pieces; i += WIDTH) { part += y[from_ + i] * grad[token + i]; }
  let total = row_sum(fold_sum(part), lane);
  if (lane == 0u) { out[row] = select(0.0, total, source >= 0); }`,
)}`,
});

/**
 * Rows of the experts' results back to their tokens: out[t] = sum_k weights[t, k] y[row of (t, k)]; a choice of no
 * expert adds nothing. y [choices, dim] in sorted order, weights [tokens, k]. Result [tokens, dim].
 *
 * @throws ShapeError, ConfigError
 */
export function combine(y: Tensor, weights: Tensor, plan: Dispatch): Tensor {
  const { k, choices, rows } = readPlan("combine", plan);
  expectShape("combine", "y", y, [choices.size, null]);
  expectShape("combine", "weights", weights, [rows.size / k, k]);
  const { gpu } = y;
  const dim = y.shape.at(-1)!;
  const tokens = rows.size / k;
  return applyOp({
    name: "moeCombine",
    inputs: [y, weights, rows, choices],
    forward: () => ({ outputs: [move(combineKernel, dim, k, [tokens, dim], { rows, weights, y })] }),
    backward: ({ grads, needs }) => {
      const grad = grads[0]!;
      let dWeights: Tensor | undefined;
      if (needs[1]) {
        dWeights = gpu.empty(weights.shape);
        const groups = grid1d(rows.size);
        gpu.run(weightsKernel, {
          variant: rowVariant(y, dim),
          bindings: { rows, y, grad, out: dWeights },
          params: { rows: rows.size, width: dim, k },
          workgroups: groups,
        });
      }
      return [
        needs[0] ? move(gatherKernel, dim, k, y.shape, { choices, weights, x: grad }) : undefined,
        dWeights,
        undefined,
        undefined,
      ];
    },
  })[0]!;
}

/**
 * Tokens' rows x [tokens, dim] in the order of the experts, [choices, dim]; rows past the last choice are zeros.
 *
 * @throws ShapeError, ConfigError
 */
export function gatherTokens(x: Tensor, plan: Dispatch): Tensor {
  const { k, choices, rows } = readPlan("gatherTokens", plan);
  expectShape("gatherTokens", "x", x, [rows.size / k, null]);
  const dim = x.shape.at(-1)!;
  return applyOp({
    name: "moeGather",
    inputs: [x, choices, rows],
    forward: () => ({ outputs: [move(gatherKernel, dim, k, [choices.size, dim], { choices, x })] }),
    backward: ({ grads }) => [
      move(combineKernel, dim, k, x.shape, { rows, y: grads[0]! }),
      undefined,
      undefined,
    ],
  })[0]!;
}
