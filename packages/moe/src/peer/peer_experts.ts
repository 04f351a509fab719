import {
  applyOp,
  cast,
  defineKernel,
  derive,
  e,
  elementwise,
  grid1d,
  input,
  rowElement,
  rowMain,
  rowPrelude,
  rowVariant,
  sort,
  type Expr,
  type RowVariant,
  type Tensor,
  flatMain,
} from "@x/kernels";

/** out[t, m] = table[ids[t, m]] . x[t]; one row of lanes for each retrieved expert. */
const dotKernel = defineKernel({
  name: "peerDot",
  bindings: (v: RowVariant) => ({
    table: `read ${rowElement(v)}`,
    x: `read ${rowElement(v)}`,
    ids: "read i32",
    out: "write f32",
  }),
  params: { rows: "u32", width: "u32", m: "u32" },
  subgroups: (v) => v.lanes > 0,
  wgsl: (v) => /* wgsl */ `
${rowPrelude(v)}
${rowMain(
  v,
  /* wgsl */ `
  let expert = u32(ids[row]) * pieces;
  let token = row / params.m * pieces;
  var part = T();
  for (var i = lane; i < pieces; i += WIDTH) { part += table[expert + i] * x[token + i]; }
  let total = row_sum(fold_sum(part), lane);
  if (lane == 0u) { out[row] = total; }`,
)}`,
});

const element = (v: { vec: boolean }): string => (v.vec ? "vec4<f32>" : "f32");

/** out[t] = sum over m of a[t, m] table[ids[t, m]], in the order of m; rows with factor 0 are not read. */
const sumKernel = defineKernel({
  name: "peerSum",
  bindings: (v: { vec: boolean }) => ({
    table: `read ${element(v)}`,
    a: "read f32",
    ids: "read i32",
    out: `write ${element(v)}`,
  }),
  params: { count: "u32", width: "u32", m: "u32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("i", "params.count")}
  let first = i / params.width * params.m;
  var total = ${v.vec ? "vec4f()" : "0.0"};
  for (var j = first; j < first + params.m; j++) {
    // By its bits: a NaN may compare as equal to 0.
    if ((bitcast<u32>(a[j]) << 1u) != 0u) { total += a[j] * table[u32(ids[j]) * params.width + i % params.width]; }
  }
  out[i] = total;
}`,
});

/**
 * Rows of the table's gradient: for each run of equal ids in the sorted list, out[id] = sum over the run of
 * a[position] x[token], in the order of the positions. The thread of a run's first element owns the row; rows that
 * were not retrieved are not written.
 */
const scatterKernel = defineKernel({
  name: "peerScatter",
  bindings: (v: { vec: boolean }) => ({
    sorted: "read f32",
    positions: "read i32",
    a: "read f32",
    x: `read ${element(v)}`,
    out: `write ${element(v)}`,
  }),
  params: { count: "u32", width: "u32", m: "u32" },
  wgsl: (v) => /* wgsl */ `
${flatMain("i", "params.count * params.width")}
  let start = i / params.width;
  let expert = sorted[start];
  if (start > 0u && sorted[start - 1u] == expert) { return; }
  var total = ${v.vec ? "vec4f()" : "0.0"};
  for (var j = start; j < params.count && sorted[j] == expert; j++) {
    let position = u32(positions[j]);
    total += a[position] * x[position / params.m * params.width + i % params.width];
  }
  out[u32(expert) * params.width + i % params.width] = total;
}`,
});

function dots(table: Tensor, x: Tensor, ids: Tensor): Tensor {
  const out = table.gpu.empty(ids.shape);
  const width = table.shape[1]!;
  table.gpu.run(dotKernel, {
    variant: rowVariant(table, width),
    bindings: { table, x, ids, out },
    params: { rows: ids.size, width, m: ids.shape[1]! },
    workgroups: grid1d(ids.size),
  });
  return out;
}

const lanesOf = (width: number): { vec: boolean; width: number } =>
  width % 4 === 0 ? { vec: true, width: width / 4 } : { vec: false, width };

function weightedSum(table: Tensor, a: Tensor, ids: Tensor): Tensor {
  const out = table.gpu.empty([ids.shape[0]!, table.shape[1]!]);
  const { vec, width } = lanesOf(table.shape[1]!);
  const count = ids.shape[0]! * width;
  table.gpu.run(sumKernel, {
    variant: { vec },
    bindings: { table, a, ids, out },
    params: { count, width, m: ids.shape[1]! },
    workgroups: grid1d(Math.ceil(count / 64)),
  });
  return out;
}

interface Runs {
  readonly values: Tensor;
  readonly indices: Tensor;
}

function scatterRows(runs: Runs, a: Tensor, x: Tensor, table: Tensor): Tensor {
  const out = table.gpu.zeros(table.shape);
  const { vec, width } = lanesOf(table.shape[1]!);
  table.gpu.run(scatterKernel, {
    variant: { vec },
    bindings: { sorted: runs.values, positions: runs.indices, a, x, out },
    params: { count: a.size, width, m: a.shape[1]! },
    workgroups: grid1d(Math.ceil((a.size * width) / 64)),
  });
  return out;
}

type Op = (...args: Tensor[]) => Tensor;

interface NeuronOps {
  /** w act(h) */
  readonly forward: Op;
  /** g w act'(h) */
  readonly hidden: Op;
  /** g act(h), 0 where w is 0 */
  readonly weight: Op;
}

/**
 * 0 where the weight is 0: such an expert (masked by a score of minus infinity, or far below the others) is not asked,
 * so that a NaN or an infinity in its rows stays there. Every score activation has slope 0 where its weight is 0.
 */
const asked = (w: Expr, value: Expr): Expr => e.select(e.eq(w, 0), 0, value);

const neurons = new Map<string, NeuronOps>();

function neuronOps(name: string, activation: (x: Expr) => Expr): NeuronOps {
  let ops = neurons.get(name);
  if (!ops) {
    const seed = e.mul(input("g"), input("w"));
    const slope = derive(activation(input("h")), ["h"], seed)[0] ?? e.mul(0, seed);
    ops = {
      forward: elementwise("peerNeuron", ["h", "w"], (h, w) => asked(w, e.mul(activation(h), w))),
      hidden: elementwise("peerNeuronHidden", ["h", "w", "g"], (_, w) => asked(w, slope)),
      weight: elementwise("peerNeuronWeight", ["h", "w", "g"], (h, w, g) =>
        asked(w, e.mul(g, activation(h))),
      ),
    };
    neurons.set(name, ops);
  }
  return ops;
}

/**
 * out[t] = sum_m weights[t, m] act(down[ids[t, m]] . x[t]) up[ids[t, m]]: experts of one neuron, picked by row.
 * Only the retrieved rows are read; the backward sorts the retrieved ids once and writes each touched row of the
 * tables' gradients once, in a fixed order.
 *
 * x [tokens, dim], weights [tokens, m], ids i32 [tokens, m], down and up [experts, dim] with experts <= 2^24.
 */
export function peerExperts(
  x: Tensor,
  weights: Tensor,
  ids: Tensor,
  down: Tensor,
  up: Tensor,
  name: string,
  activation: (x: Expr) => Expr,
): Tensor {
  const ops = neuronOps(name, activation);
  return applyOp({
    name: "peerExperts",
    inputs: [x, weights, down, up, ids],
    forward: () => {
      const h = dots(down, x, ids);
      const a = ops.forward(h, weights);
      return { outputs: [weightedSum(up, a, ids)], saved: [h, a] };
    },
    backward: ({ grads, needs, saved }) => {
      const g = grads[0]!;
      const [h, a] = saved as [Tensor, Tensor];
      const ga = needs[0] || needs[1] || needs[2] ? dots(up, g, ids) : undefined;
      const gh = ga && (needs[0] || needs[2]) ? ops.hidden(h, weights, ga) : undefined;
      const runs = needs[2] || needs[3] ? sort(cast(ids, "f32").reshape([ids.size])) : undefined;
      return [
        needs[0] ? weightedSum(down, gh!, ids) : undefined,
        needs[1] ? ops.weight(h, weights, ga!) : undefined,
        needs[2] ? scatterRows(runs!, gh!, x, down) : undefined,
        needs[3] ? scatterRows(runs!, a, g, up) : undefined,
        undefined,
      ];
    },
  })[0]!;
}
