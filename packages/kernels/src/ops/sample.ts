import { flatMain } from "../kernel/flat_grid.js";
import { DTypeError, ShapeError } from "../base/errors.js";
import { defineKernel, grid1d } from "../kernel/kernel.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  checkConfig,
  expectInteger,
  expectNoMore,
  expectNumber,
  expectTensor,
  showShape,
} from "../base/validate.js";
import { argmax } from "./extremes.js";
import { philox } from "../random/philox.wgsl.js";
import { expectFreshDraws, randomParameters, type RandomOptions } from "../random/random.js";

export interface SampleOptions extends Partial<RandomOptions> {
  /** Divides the logits; 0 takes the largest. Default 1. */
  readonly temperature?: number;
  /** Keep the k largest (and what equals the k-th); 0: all. */
  readonly topK?: number;
  /** Keep the fewest that hold this share of what is left (Holtzman et al. 2020); 1: all. */
  readonly topP?: number;
  /** Keep what has at least this share of the largest probability (Nguyen et al. 2024); 0: all. */
  readonly minP?: number;
}

const MAX_F32 = 3.4028234663852886e38;

const sampleKernel = defineKernel({
  name: "sample",
  bindings: (v: { step: boolean }) => ({
    logits: "read f32",
    out: "write i32",
    ...(v.step ? { step: "read u32" } : {}),
  }),
  params: {
    width: "u32",
    top_k: "u32",
    top_p: "f32",
    min_p: "f32",
    inverse: "f32",
    seed_low: "u32",
    seed_high: "u32",
    stream: "u32",
  },
  wgsl: (v) => /* wgsl */ `
${philox}
// By its bits: a driver may assume that there is no NaN.
fn undefined_(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
// Grows with x; a NaN comes before everything.
fn order_key(x: f32) -> u32 {
  let bits = bitcast<u32>(select(x, 0.0, x == 0.0));
  return select(select(bits | 0x80000000u, ~bits, bits >= 0x80000000u), 0u, undefined_(x));
}
// The probability over that of the largest. Compared first: equal infinities have no difference, and the difference of
// equals times an overflowing inverse would be NaN.
fn weight(x: f32, top: f32) -> f32 {
  if (undefined_(x)) { return 0.0; }
  if (x >= top) { return 1.0; }
  return exp((x - top) * params.inverse);
}
var<workgroup> partial: array<f32, 64>;
fn total(x: f32, lane: u32) -> f32 {
  workgroupBarrier();
  partial[lane] = x;
  workgroupBarrier();
  var s = 0.0;
  for (var i = 0u; i < 64u; i++) { s += partial[i]; }
  return s;
}
fn largest(x: f32, lane: u32) -> f32 {
  workgroupBarrier();
  partial[lane] = x;
  workgroupBarrier();
  var s = partial[0];
  for (var i = 1u; i < 64u; i++) { s = max(s, partial[i]); }
  return s;
}
@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let base = group.x * params.width;
  // Lanes own neighbouring stretches, so that the walk at the end goes in order of the vocabulary.
  let stretch = (params.width + 63u) / 64u;
  let first = min(lane * stretch, params.width);
  let last = min(first + stretch, params.width);
  var m = -3.4028234e38;
  for (var i = first; i < last; i++) {
    let x = logits[base + i];
    if (!undefined_(x)) { m = max(m, x); }
  }
  let top = largest(m, lane);
  var least = 0u;
  if (params.top_k > 0u && params.top_k < params.width) {
    for (var bit = 32u; bit > 0u; bit--) {
      let trial = least | (1u << (bit - 1u));
      var n = 0.0;
      for (var i = first; i < last; i++) { n += select(0.0, 1.0, order_key(logits[base + i]) >= trial); }
      if (total(n, lane) >= f32(params.top_k)) { least = trial; }
    }
  }
  if (params.top_p < 1.0) {
    var mass = 0.0;
    for (var i = first; i < last; i++) {
      let x = logits[base + i];
      mass += select(0.0, weight(x, top), order_key(x) >= least);
    }
    let wanted = params.top_p * total(mass, lane);
    var floor_ = least;
    for (var bit = 32u; bit > 0u; bit--) {
      let trial = floor_ | (1u << (bit - 1u));
      var held = 0.0;
      for (var i = first; i < last; i++) {
        let x = logits[base + i];
        held += select(0.0, weight(x, top), order_key(x) >= trial);
      }
      if (total(held, lane) >= wanted && trial > floor_) { floor_ = trial; }
    }
    least = max(least, min(floor_, order_key(top)));
  }
  var own = 0.0;
  for (var i = first; i < last; i++) {
    let x = logits[base + i];
    let p = weight(x, top);
    own += select(0.0, p, order_key(x) >= least && p >= params.min_p);
  }
  let mass = total(own, lane);
  let r = philox(vec4u(group.x, 1u, ${v.step ? "step[0]" : "0u"}, params.stream), vec2u(params.seed_low, params.seed_high));
  let goal = unit(r.x) * mass;
  // The lane whose stretch holds the goal; partial[] still has the stretches' masses.
  var before = 0.0;
  var owner = 64u;
  var spare = 0u;
  var run = 0.0;
  for (var l = 0u; l < 64u; l++) {
    if (partial[l] > 0.0) { spare = l; }
    if (owner == 64u && goal < run + partial[l]) { owner = l; before = run; }
    run += partial[l];
  }
  if (owner == 64u) { owner = spare; before = run; }
  if (lane == owner) {
    var at = first;
    var sum = before;
    for (var i = first; i < last; i++) {
      let x = logits[base + i];
      let p = weight(x, top);
      if (p > 0.0 && order_key(x) >= least && p >= params.min_p) {
        at = i;
        sum += p;
        if (goal < sum) { break; }
      }
    }
    out[group.x] = i32(at);
  }
}`,
});

/**
 * Draw one token per row on the GPU: logits [vocab] or [rows, vocab], f32 -> i32 [1] or [rows]. Temperature, then
 * top-k, top-p and min-p, each on what the one before has left. Any temperature above 0 may be given: a very small one
 * takes the largest logit. A NaN is never drawn; where no logit is above -Infinity, token 0 is. A recording freezes the
 * options, which are numbers of the host; `step` tells its replays apart.
 *
 * @throws ConfigError, also inside a recording without `step` unless the temperature is 0; ShapeError, DTypeError
 */
export function sample(logits: Tensor, options: SampleOptions = {}): Tensor {
  const who = "sample";
  checkConfig(who, options, ["temperature", "topK", "topP", "minP", "seed", "stream", "step"]);
  const { temperature = 1, topK = 0, topP = 1, minP = 0, seed = 0, stream = 0, step } = options;
  expectNumber(who, "temperature", temperature, 0);
  expectInteger(who, "topK", topK, 0);
  expectNumber(who, "topP", topP, 0, 1);
  expectNumber(who, "minP", minP, 0, 1);
  expectTensor(who, "logits", logits);
  if (logits.dtype !== "f32") throw new DTypeError(who, `logits are ${logits.dtype}; they must be f32`);
  const width = logits.shape.at(-1) ?? 0;
  if (logits.rank < 1 || logits.rank > 2 || width === 0) {
    throw new ShapeError(
      who,
      `logits have shape ${showShape(logits.shape)}; it must be [vocab] or [rows, vocab]`,
    );
  }
  const rows = logits.size / width;
  const random = randomParameters(who, { seed, stream, step });
  if (temperature === 0) return logits.gpu.scope(() => argmax(logits).reshape([rows]));
  expectFreshDraws(who, logits.gpu, step);
  const out = logits.gpu.empty([rows], "i32");
  logits.gpu.run(sampleKernel, {
    variant: { step: step !== undefined },
    bindings: { logits, out, step },
    params: {
      ...random,
      width,
      top_k: topK,
      top_p: topP,
      min_p: minP,
      inverse: Math.min(1 / temperature, MAX_F32),
    },
    workgroups: [rows],
  });
  return out;
}

const penaltyKernel = defineKernel({
  name: "repetitionPenalty",
  bindings: { logits: "read f32", ids: "read i32", out: "read_write f32" },
  params: { width: "u32", count: "u32", rows: "u32", penalty: "f32" },
  wgsl: () => /* wgsl */ `
${flatMain("i", "params.count * params.rows")}
  let key = ids[i];
  if (key < 0 || u32(key) >= params.width) { return; }
  // A token that occurs twice is written twice with the same value: it is computed from the given logits.
  let at = i / params.count * params.width + u32(key);
  let x = logits[at];
  out[at] = select(x * params.penalty, x / params.penalty, x > 0.0);
}`,
});

/**
 * Make tokens that occurred less likely (Keskar et al. 2019, CTRL): positive logits are divided by the penalty,
 * negative ones multiplied. logits [vocab] or [rows, vocab]; ids i32 [n] or [rows, n], those below 0 left out.
 */
export function repetitionPenalty(logits: Tensor, ids: Tensor, penalty: number, ...rest: never[]): Tensor {
  const who = "repetitionPenalty";
  expectNoMore(who, rest);
  expectTensor(who, "logits", logits);
  expectTensor(who, "ids", ids);
  expectNumber(who, "penalty", penalty, 1e-6, 1e6);
  if (logits.dtype !== "f32" || ids.dtype !== "i32")
    throw new DTypeError(who, `logits are ${logits.dtype}, ids ${ids.dtype}; they must be f32 and i32`);
  const width = logits.shape.at(-1) ?? 0;
  const rows = width === 0 ? 0 : logits.size / width;
  if (ids.rank !== logits.rank || (ids.rank === 2 && ids.shape[0] !== rows)) {
    throw new ShapeError(
      who,
      `logits have shape ${showShape(logits.shape)}, ids ${showShape(ids.shape)}; ids need one list per row`,
    );
  }
  const { gpu } = logits;
  const out = gpu.empty(logits.shape);
  gpu.copy(logits, out);
  const count = ids.size / Math.max(rows, 1);
  gpu.run(penaltyKernel, {
    bindings: { logits, ids, out },
    params: { width, count, rows, penalty },
    workgroups: grid1d(Math.ceil(ids.size / 64)),
  });
  return out;
}
