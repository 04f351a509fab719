import { groupMain } from "@x/kernels";
/*
 * A gated convolution of a few tokens that follow a state. A workgroup owns 16 channels of one token, an invocation a share of
 * one channel's taps. Grid: batch seq ceil(dim / 16) workgroups, laid out in two dimensions.
 *
 * Bindings: z [batch, seq, dim] or the first dim columns of gates; gates [batch, seq, (order + 1) dim]; filters [order, dim,
 * taps]; skip [order, dim]; before and next [batch, taps - 1, dim]; out [batch, seq, dim].
 */

/** Channels of a workgroup, and lanes among which the taps of one are shared. */
export const CHANNELS = 16;
const SHARES = 4;

/**
 * out_t = gate_t (sum_l filter_l z_{t-l} + skip z_t) of a few tokens that follow `before`, and what comes before the next
 * ones. A workgroup owns 16 channels of one token; those of the first token also move the state on.
 */
export const stage = (): string => /* wgsl */ `
const LANES = ${CHANNELS * SHARES}u;
var<workgroup> parts: array<f32, ${CHANNELS * SHARES}>;
${groupMain("index", undefined, CHANNELS * SHARES)}
  let blocks = (params.dim + ${CHANNELS - 1}u) / ${CHANNELS}u;
  let d = index % blocks * ${CHANNELS}u + lane % ${CHANNELS}u;
  let t = index / blocks % params.seq;
  let b = index / (blocks * params.seq);
  let inside = b < params.batch && d < params.dim;
  let held = params.taps - 1u;
  let z_first = b * params.seq * params.z_row + d;
  let before_first = b * held * params.dim + d;
  var sum = 0.0;
  if (inside) {
    let row = (params.stage * params.dim + d) * params.taps;
    for (var l = lane / ${CHANNELS}u; l < params.taps; l += ${SHARES}u) {
      var value = 0.0;
      if (l <= t) { value = z[z_first + (t - l) * params.z_row]; }
      else { value = before[before_first + (held + t - l) * params.dim]; }
      sum = fma(filters[row + l], value, sum);
    }
    if (t == 0u) {
      for (var i = lane / ${CHANNELS}u; i < held; i += ${SHARES}u) {
        let source = i + params.seq;
        var value = 0.0;
        if (source < held) { value = before[before_first + source * params.dim]; }
        else { value = z[z_first + (source - held) * params.z_row]; }
        next[before_first + i * params.dim] = value;
      }
    }
  }
  parts[lane] = sum;
  workgroupBarrier();
  if (inside && lane < ${CHANNELS}u) {
    var total = sum;
    for (var share = 1u; share < ${SHARES}u; share++) { total += parts[lane + share * ${CHANNELS}u]; }
    let at = b * params.seq + t;
    let own = z[z_first + t * params.z_row];
    let gate = gates[at * params.gate_row + params.gate_offset + d];
    out[at * params.dim + d] = gate * (total + skip[params.stage * params.dim + d] * own);
  }
}`;
