import { maxError, normals, normError, type HostTensor, type Inputs } from "../measure/data.js";
import {
  ADAMW,
  firstAdamWUpdate,
  LAYER,
  LAYER_PARAMETERS,
  LAYER_SHAPES,
  layerForward,
  layerLoss,
  type LayerWeights,
} from "../reference/decoder_layer.js";
import {
  attention,
  attentionBackward,
  matmul,
  rowNorm,
  softmax,
  type AttentionShape,
} from "../reference/math.js";

/** What is computed; each implementation has one program per kind. */
export type Kind =
  | "matmul"
  | "rmsNorm"
  | "layerNorm"
  | "softmax"
  | "attention"
  | "attentionGradient"
  | "layer"
  | "layerTraining"
  | "decode"
  | "tinyOp";

/** One row of the table. */
export interface BenchCase {
  readonly name: string;
  readonly kind: Kind;
  /** Numbers that a program needs besides its inputs. */
  readonly options: Readonly<Record<string, number>>;
  readonly inputs: () => Inputs;
  /** Relative error of the outputs of one run against float64. */
  readonly error: (outputs: readonly Float32Array[], inputs: Inputs) => number;
  readonly tolerance: number;
  /** Floating-point operations of a run (2 for a multiply-add), where that is the cost. */
  readonly flops?: number;
  /** Bytes that a run has to move at least, where that is the cost. */
  readonly bytes?: number;
  /** Operations in one run, when a row's figure is the cost of one of them. */
  readonly operations?: number;
  /** Too large for implementations that keep a score matrix. */
  readonly projectOnly?: boolean;
}

const worst = (...errors: number[]): number => Math.max(...errors);

function matmulCase(name: string, [M, N, K]: [number, number, number]): BenchCase {
  // Of a large product, rows are checked: the ends, tile borders and some between.
  const rows = M <= 1024 ? undefined : [0, 1, 63, 64, 127, 128, M / 2 + 5, M - 65, M - 1];
  const pick = (x: Float32Array, width: number): Float32Array =>
    rows ? Float32Array.from(rows.flatMap((r) => [...x.subarray(r * width, (r + 1) * width)])) : x;
  return {
    name,
    kind: "matmul",
    options: {},
    inputs: () => ({ a: normals([M, K], 1), b: normals([K, N], 2) }),
    error: ([out], { a, b }) =>
      maxError(pick(out!, N), matmul(pick(a!.data, K), b!.data, [rows?.length ?? M, N, K])),
    tolerance: 1e-5,
    flops: 2 * M * N * K,
    ...(M === 1 ? { bytes: 4 * K * N } : {}),
  };
}

function normCase(kind: "rmsNorm" | "layerNorm" | "softmax", [rows, dim]: [number, number]): BenchCase {
  return {
    name: `${{ rmsNorm: "RMSNorm", layerNorm: "LayerNorm", softmax: "softmax" }[kind]} [${rows}, ${dim}]`,
    kind,
    options: { dim, eps: 1e-5 },
    inputs: () => ({
      x: normals([rows, dim], 1, 2, 0.5),
      weight: normals([dim], 2, 0.1, 1),
      bias: normals([dim], 3, 0.1),
    }),
    error: ([out], { x, weight, bias }) =>
      maxError(
        out!,
        kind === "softmax"
          ? softmax(x!.data, dim)
          : rowNorm(
              x!.data,
              weight!.data,
              kind === "layerNorm" ? bias!.data : undefined,
              dim,
              1e-5,
              kind === "layerNorm",
            ),
      ),
    tolerance: 1e-5,
    bytes: 8 * rows * dim,
  };
}

function attentionCase(
  name: string,
  seq: number,
  options: { window?: number; gradient?: boolean } = {},
): BenchCase {
  const [heads, dim] = [8, 64];
  const { window, gradient = false } = options;
  const shape: AttentionShape = {
    heads,
    kvHeads: heads,
    queries: seq,
    keys: seq,
    dim,
    layout: "hsd",
    ...(window === undefined ? {} : { window }),
  };
  // Long sequences are checked at some rows: the ends, tile borders and some between.
  const rows =
    seq <= 1024 ? undefined : [0, 1, 63, 64, 65, 255, 256, 257, seq / 2, seq / 2 + 7, seq - 2, seq - 1];
  const pick = (x: ArrayLike<number>): Float64Array => {
    if (!rows) return Float64Array.from(x);
    const out: number[] = [];
    for (let h = 0; h < heads; h++)
      for (const i of rows) for (let d = 0; d < dim; d++) out.push(x[(h * seq + i) * dim + d] ?? NaN);
    return Float64Array.from(out);
  };
  const pairs = window === undefined ? (seq * (seq + 1)) / 2 : seq * window - (window * (window - 1)) / 2;
  return {
    name,
    kind: gradient ? "attentionGradient" : "attention",
    options: { heads, dim, seq, window: window ?? 0 },
    inputs: () => ({
      q: normals([heads, seq, dim], 1),
      k: normals([heads, seq, dim], 2),
      v: normals([heads, seq, dim], 3),
      ...(gradient ? { grad: normals([heads, seq, dim], 4) } : {}),
    }),
    error: (outputs, { q, k, v, grad }) => {
      if (gradient) {
        const d = attentionBackward(q!.data, k!.data, v!.data, grad!.data, shape);
        return worst(...[d.q, d.k, d.v].map((expected, i) => maxError(outputs[i]!, expected)));
      }
      return maxError(pick(outputs[0]!), pick(attention(q!.data, k!.data, v!.data, shape, rows)));
    },
    tolerance: 3e-5,
    flops: (gradient ? 14 : 4) * heads * dim * pairs,
    ...(seq > 1024 ? { projectOnly: true } : {}),
  };
}

/** Weights whose layer keeps activations near one. */
function layerInputs(seed: number, prefix = ""): Record<string, HostTensor> {
  return Object.fromEntries(
    LAYER_PARAMETERS.map((name, i) => {
      const shape = LAYER_SHAPES[name];
      return [
        prefix + name,
        shape.length === 1
          ? normals(shape, seed + i, 0.1, 1)
          : normals(shape, seed + i, 1 / Math.sqrt(shape[1]!)),
      ];
    }),
  );
}

const layerWeights = (inputs: Inputs, prefix = ""): LayerWeights =>
  Object.fromEntries(
    LAYER_PARAMETERS.map((name) => [name, inputs[prefix + name]!.data]),
  ) as unknown as LayerWeights;

const { dim, seq, heads, kvHeads, headDim, hidden } = LAYER;
const LAYER_WEIGHTS = dim * headDim * (2 * heads + 2 * kvHeads) + 3 * dim * hidden;
const LAYER_FLOPS = 2 * seq * LAYER_WEIGHTS + 4 * heads * headDim * ((seq * (seq + 1)) / 2);

const layerCase: BenchCase = {
  name: "decoder layer forward",
  kind: "layer",
  options: { ...LAYER },
  inputs: () => ({ x: normals([seq, dim], 50), ...layerInputs(10) }),
  error: ([out], inputs) => maxError(out!, layerForward(inputs["x"]!.data, layerWeights(inputs))),
  tolerance: 1e-4,
  flops: LAYER_FLOPS,
};

const trainingCase: BenchCase = {
  name: "decoder layer training step",
  kind: "layerTraining",
  options: { ...LAYER, ...ADAMW },
  inputs: () => ({ x: normals([seq, dim], 50), target: normals([seq, dim], 51), ...layerInputs(10) }),
  // Outputs: the loss, then the parameters after one step. A gradient near zero may round to either sign, so the
  // updates are compared by their length.
  error: ([loss, ...parameters], inputs) => {
    const expected = layerLoss(inputs["x"]!.data, inputs["target"]!.data, layerWeights(inputs));
    return worst(
      maxError(loss!, [expected.loss]),
      ...LAYER_PARAMETERS.map((name, i) => {
        const before = inputs[name]!.data;
        const update = Float64Array.from(parameters[i] ?? [], (p, j) => p - before[j]!);
        return normError(update, firstAdamWUpdate(before, expected.grads[name])) / 20;
      }),
    );
  },
  // 1e-3 for the loss, 2e-2 for the updates, whose small gradients carry float32 noise.
  tolerance: 1e-3,
  // Backward: two products for each of the forward's; attention five for its two.
  flops: 6 * seq * LAYER_WEIGHTS + 14 * heads * headDim * ((seq * (seq + 1)) / 2),
};

export const DECODE: Readonly<Record<"layers" | "past" | "vocabulary", number>> = {
  layers: 4,
  past: 127,
  vocabulary: 4096,
};

const decodeCase: BenchCase = {
  name: "decode one token, 4 layers",
  kind: "decode",
  options: { ...LAYER, ...DECODE },
  inputs: () => ({
    embedding: normals([DECODE.vocabulary, dim], 60),
    head: normals([DECODE.vocabulary, dim], 61, 1 / Math.sqrt(dim)),
    ...Object.fromEntries(
      Array.from({ length: DECODE.layers }, (_, i) =>
        Object.entries({
          ...layerInputs(100 * (i + 1), `${i}.`),
          [`${i}.k`]: normals([DECODE.past, kvHeads, headDim], 100 * (i + 1) + 20),
          [`${i}.v`]: normals([DECODE.past, kvHeads, headDim], 100 * (i + 1) + 21),
        }),
      ).flat(),
    ),
  }),
  error: ([logits], inputs) => {
    let x: ArrayLike<number> = inputs["embedding"]!.data.subarray(7 * dim, 8 * dim);
    for (let i = 0; i < DECODE.layers; i++)
      x = layerForward(x, layerWeights(inputs, `${i}.`), {
        k: inputs[`${i}.k`]!.data,
        v: inputs[`${i}.v`]!.data,
      });
    return maxError(
      logits!,
      matmul(x, inputs["head"]!.data, [1, DECODE.vocabulary, dim], { transposeB: true }),
    );
  },
  tolerance: 1e-4,
  bytes: 4 * (DECODE.layers * LAYER_WEIGHTS + DECODE.vocabulary * dim),
};

const tinyCase: BenchCase = {
  name: "one tiny add",
  kind: "tinyOp",
  options: { operations: 256 },
  inputs: () => ({ x: normals([16], 1) }),
  error: ([out], { x }) =>
    maxError(
      out!,
      Float64Array.from(x!.data, (v) => v + 256),
    ),
  tolerance: 1e-5,
  operations: 256,
};

/** Every row of the table, in order. */
export const CASES: readonly BenchCase[] = [
  matmulCase("matmul 256", [256, 256, 256]),
  matmulCase("matmul 512", [512, 512, 512]),
  matmulCase("matmul 1024", [1024, 1024, 1024]),
  matmulCase("[1, 2048] x [2048, 2048]", [1, 2048, 2048]),
  normCase("softmax", [512, 1024]),
  normCase("rmsNorm", [512, 1024]),
  normCase("layerNorm", [512, 1024]),
  attentionCase("causal attention 8x64, 256", 256),
  attentionCase("causal attention 8x64, 512", 512),
  attentionCase("causal attention 8x64, 1024", 1024),
  attentionCase("attention 256 forward + backward", 256, { gradient: true }),
  layerCase,
  trainingCase,
  decodeCase,
  tinyCase,
  attentionCase("causal attention 8x64, 4096", 4096),
  attentionCase("window 256 at 2048", 2048, { window: 256 }),
  attentionCase("window 256 at 4096", 4096, { window: 256 }),
  attentionCase("window 256 at 8192", 8192, { window: 256 }),
];

/** Rows that a GPU is busy with; a CPU takes seconds for each run. */
export const LARGE_CASES: readonly BenchCase[] = [
  matmulCase("matmul 2048", [2048, 2048, 2048]),
  matmulCase("matmul 4096", [4096, 4096, 4096]),
];

/** Rows whose first call is measured in a process of its own with an empty shader cache. */
export const COLD_CASES: readonly BenchCase[] = [layerCase, trainingCase];
