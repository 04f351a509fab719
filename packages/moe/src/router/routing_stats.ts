import {
  cast,
  ConfigError,
  defineKernel,
  div,
  e,
  elementwise,
  expectDType,
  expectShape,
  expectTensors,
  flatMain,
  grid1d,
  integer,
  max,
  maximum,
  mean,
  mul,
  neg,
  noGrad,
  scatterAdd,
  schema,
  sqrt,
  square,
  sum,
  topk,
  transpose,
  type Config,
  type Expr,
  type Operand,
  type Tensor,
} from "@x/kernels";
import { countChoices, expectChoices } from "./choices.js";

const OPTIONS = schema("routingStats", {
  numExperts: integer("Number of experts.", { min: 1 }),
  numTypes: integer("Number of types of token.", { min: 1 }),
  topTypes: integer("Most frequent types to name for each expert.", { min: 1, default: 3 }),
});
export type RoutingStatsOptions = Config<typeof OPTIONS>;

/** Scalars have shape [1]. */
export interface RoutingStats {
  /** i32 [experts]: choices of the expert. */
  readonly tokensPerExpert: Tensor;
  /** [experts]: that divided by the number of choices. */
  readonly load: Tensor;
  /** -sum load ln load, and that divided by ln E. */
  readonly loadEntropy: Tensor;
  readonly loadEntropyNormalized: Tensor;
  /** Mean over tokens of the entropy of the router's probabilities. */
  readonly routerEntropy: Tensor;
  /** [experts]: sum of weights. */
  readonly importance: Tensor;
  /** Deviation over mean, and largest over mean, of the counts. */
  readonly cv: Tensor;
  readonly maxOverMean: Tensor;
  /** i32 [1]: experts without a choice. */
  readonly deadExperts: Tensor;
  /** i32 [types, experts]: choices of the expert by tokens of the type. */
  readonly typeCounts: Tensor;
  /** [types, experts]: rows of the counts divided by their sums; columns by theirs. */
  readonly typeShare: Tensor;
  readonly expertShare: Tensor;
  /** i32 [experts, topTypes]: most frequent types, -1 where there is none. */
  readonly topTypes: Tensor;
  /** i32 [experts, experts]: tokens that chose both. */
  readonly coActivation: Tensor;
  /** Of type and expert, in nats. */
  readonly mutualInformation: Tensor;
}

const pairKernel = defineKernel({
  name: "routingCounts",
  bindings: {
    indices: "read i32",
    types: "read i32",
    typeCounts: "read_write atomic<i32>",
    coActivation: "read_write atomic<i32>",
  },
  params: { tokens: "u32", k: "u32", experts: "u32", types_: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("t", "params.tokens")}
  let kind = types[t];
  for (var j = 0u; j < params.k; j++) {
    let a = indices[t * params.k + j];
    if (a < 0 || u32(a) >= params.experts) { continue; }
    if (kind >= 0 && u32(kind) < params.types_) { atomicAdd(&typeCounts[u32(kind) * params.experts + u32(a)], 1); }
    for (var i = 0u; i < params.k; i++) {
      let b = indices[t * params.k + i];
      if (b >= 0 && u32(b) < params.experts) { atomicAdd(&coActivation[u32(a) * params.experts + u32(b)], 1); }
    }
  }
}`,
});

/** Integers of the best types, -1 where the count is 0 or there are no more types. */
const topKernel = defineKernel({
  name: "routingTopTypes",
  bindings: { counts: "read f32", types: "read i32", out: "write i32" },
  params: { count: "u32", wanted: "u32", found: "u32" },
  wgsl: () => /* wgsl */ `
${flatMain("i", "params.count")}
  let at = i % params.wanted;
  var value = -1;
  if (at < params.found) {
    let from_ = i / params.wanted * params.found + at;
    if (counts[from_] > 0.0) { value = types[from_]; }
  }
  out[i] = value;
}`,
});

/** A number whose logarithm is finite: below 1.17e-38 many adapters take a number for 0. */
const LEAST = 1.2e-38;

/**
 * ln x near 1, relative to its size, where WGSL's log has an absolute error alone: 2 artanh s, s = (x - 1) / (x + 1), as
 * a series.
 */
function logNearOne(x: Expr): Expr {
  const s = e.div(e.sub(x, 1), e.add(x, 1));
  const s2 = e.mul(s, s);
  const series = [7, 5, 3, 1].reduce<Operand>((sum, n) => e.add(1 / n, e.mul(s2, sum)), 1 / 9);
  return e.mul(e.mul(2, s), series);
}

/** x ln x, 0 at 0. */
const xLogX = elementwise("xLogX", ["x"], (x) =>
  e.select(
    e.gt(x, 0),
    e.mul(x, e.select(e.lt(e.abs(e.sub(x, 1)), 0.3), logNearOne(x), e.log(e.max(x, LEAST)))),
    0,
  ),
);
const isZero = elementwise("isZero", ["x"], (x) => e.eq(x, 0));
/** Experts times count, less the number of choices: 0, exactly, where the load is even. */
const excess = elementwise("loadExcess", ["count", "experts", "total"], (count, experts, total) =>
  e.sub(e.mul(count, experts), total),
);

/**
 * Terms of the mutual information, sum over (type, expert) of a b / n^2 phi(r), with a and b the sums of the row and
 * the column, r = c n / (a b) - 1 and phi(r) = (1 + r) ln(1 + r) - r: what J ln(J / (J_type J_expert)) sums to, without
 * its cancellation. c n - a b is exact, in 64 bits, and phi a series near 0.
 */
const informationKernel = defineKernel({
  name: "routingInformation",
  bindings: {
    table: "read i32",
    byType: "read f32",
    byExpert: "read f32",
    total: "read f32",
    out: "write f32",
  },
  params: { count: "u32", experts: "u32" },
  wgsl: () => /* wgsl */ `
fn wide(a: u32, b: u32) -> vec2u {
  let low = (a & 0xffffu) * (b & 0xffffu);
  let m1 = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
  let m2 = (a & 0xffffu) * (b >> 16u) + (m1 & 0xffffu);
  return vec2u((m2 << 16u) | (low & 0xffffu), (a >> 16u) * (b >> 16u) + (m1 >> 16u) + (m2 >> 16u));
}
fn difference(x: vec2u, y: vec2u) -> f32 {
  let less = x.y < y.y || (x.y == y.y && x.x < y.x);
  let a = select(x, y, less);
  let b = select(y, x, less);
  let size = f32(a.y - b.y - select(0u, 1u, a.x < b.x)) * 4294967296.0 + f32(a.x - b.x);
  return select(size, -size, less);
}
${flatMain("i", "params.count")}
  let a = byType[i / params.experts];
  let b = byExpert[i % params.experts];
  let n = max(total[0], 1.0);
  var value = 0.0;
  if (a > 0.0 && b > 0.0) {
    let r = difference(wide(u32(table[i]), u32(n)), wide(u32(a), u32(b))) / (a * b);
    var phi = 1.0;
    if (abs(r) < 0.5) {
      phi = 0.0;
      var power = r;
      for (var k = 2u; k < 26u; k++) {
        power *= r;
        phi += select(power, -power, k % 2u == 1u) / f32(k * (k - 1u));
      }
    } else if (table[i] > 0) { phi = (1.0 + r) * log(1.0 + r) - r; }
    value = a / n * (b / n) * phi;
  }
  out[i] = value;
}`,
});

const safe = (t: Tensor): Tensor => maximum(t, 1);
const scalar = (t: Tensor): Tensor => t.reshape([1]);
const entropy = (p: Tensor): Tensor => neg(sum(xLogX(p), { axes: -1 }));

/**
 * What the router did: the load of each expert and how even it is, and which types of token each expert takes (the
 * table of ST-MoE, arXiv:2202.08906, section 7, where experts gather punctuation, articles, verbs). Computed on the
 * GPU, outside the tape. Natural logarithms.
 *
 * indices i32 and weights [batch, seq, k], probs [batch, seq, experts], types i32 [batch, seq]: class of each token
 * (part of speech, punctuation, ... or its id).
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function routingStats(
  indices: Tensor,
  weights: Tensor,
  probs: Tensor,
  types: Tensor,
  options: RoutingStatsOptions,
): RoutingStats {
  const who = OPTIONS.name;
  expectTensors(who, { indices, weights, probs, types });
  const { numExperts, numTypes, topTypes } = OPTIONS.read(options);
  const k = expectChoices(who, indices, weights);
  const each = indices.shape.slice(0, -1);
  expectShape(who, "probs", probs, [...each, numExperts]);
  expectShape(who, "types", types, each);
  expectDType(who, "types", types, "i32");
  const tokens = indices.size / k;
  if (tokens === 0) throw new ConfigError(who, "there are no tokens; there must be at least one");
  const { gpu } = indices;
  return noGrad(() =>
    gpu.scope(() => {
      const counted = countChoices(indices, { groups: 1, experts: numExperts }).reshape([numExperts]);
      const typeCounts = gpu.zeros([numTypes, numExperts], "i32");
      const coActivation = gpu.zeros([numExperts, numExperts], "i32");
      gpu.run(pairKernel, {
        bindings: { indices, types, typeCounts, coActivation },
        params: { tokens, k, experts: numExperts, types_: numTypes },
        workgroups: grid1d(Math.ceil(tokens / 64)),
      });
      const counts = cast(counted, "f32");
      const chosen = safe(sum(counts));
      const load = div(counts, chosen);
      const loadEntropy = scalar(entropy(load));
      const table = cast(typeCounts, "f32");
      const byType = sum(table, { axes: 1, keepDims: true });
      const byExpert = sum(table, { axes: 0, keepDims: true });
      const terms = gpu.empty([numTypes, numExperts]);
      gpu.run(informationKernel, {
        bindings: { table: typeCounts, byType, byExpert, total: scalar(sum(table)), out: terms },
        params: { count: terms.size, experts: numExperts },
        workgroups: grid1d(Math.ceil(terms.size / 64)),
      });
      const found = Math.min(topTypes, numTypes);
      const best = topk(transpose(table), found);
      const top = gpu.empty([numExperts, topTypes], "i32");
      gpu.run(topKernel, {
        bindings: { counts: best.values, types: best.indices, out: top },
        params: { count: top.size, wanted: topTypes, found },
        workgroups: grid1d(Math.ceil(top.size / 64)),
      });
      return {
        tokensPerExpert: cast(counted, "i32"),
        load,
        loadEntropy,
        loadEntropyNormalized: mul(loadEntropy, numExperts > 1 ? 1 / Math.log(numExperts) : 0),
        routerEntropy: scalar(mean(entropy(probs))),
        importance: scatterAdd(weights.reshape([indices.size]), indices.reshape([indices.size]), numExperts),
        cv: scalar(div(sqrt(mean(square(excess(counts, numExperts, chosen)))), chosen)),
        maxOverMean: scalar(mul(div(max(counts), chosen), numExperts)),
        deadExperts: cast(scalar(sum(isZero(counts))), "i32"),
        typeCounts,
        typeShare: div(table, safe(byType)),
        expertShare: div(table, safe(byExpert)),
        topTypes: top,
        coActivation,
        mutualInformation: scalar(sum(terms)),
      };
    }),
  );
}
