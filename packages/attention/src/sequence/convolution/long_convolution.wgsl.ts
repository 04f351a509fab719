import { flatMain } from "@x/kernels";

/*
 * The direct form of a long convolution. An invocation owns TILE consecutive results of one channel, of the gradient of the
 * filter for all sequences. Grid: batch tiles dim (tiles dim) invocations in workgroups of 64.
 *
 * Bindings: x [batch, seq, dim]; w [dim, taps], for the gradient of the filter [batch, seq, dim]; out as x, or as the filter.
 */

/** Results that an invocation computes from one window of the sequence it slides over. */
export const TILE = 8;

/** y = filter * x, or the gradient of x or of the filter, as in the transformed form. */
export interface DirectVariant {
  readonly of: "y" | "x" | "filter";
}

/**
 * An invocation owns 8 consecutive results of one channel: acc_i = sum over s of x_s w[first + i - s], with 15 of w in
 * registers, so that 8 loads of each serve 64 products. For y and (in reversed time) the gradient of x, w is the filter;
 * for the gradient of the filter, x is the gradient of y in reversed time and w the input.
 */
export const direct = (v: DirectVariant): string => {
  const filter = v.of === "filter";
  const tile = Array.from({ length: TILE }, (_, i) => i);
  const time = v.of === "y" ? "u32(s)" : "params.seq - 1u - u32(s)";
  return /* wgsl */ `
fn x_at(b: u32, s: i32, d: u32) -> f32 {
  if (s < 0 || s >= i32(params.seq)) { return 0.0; }
  return x[(b * params.seq + ${time}) * params.dim + d];
}
fn w_at(b: u32, i: i32, d: u32) -> f32 {
  if (i < 0 || i >= i32(${filter ? "params.seq" : "params.taps"})) { return 0.0; }
  return ${filter ? "w[(b * params.seq + u32(i)) * params.dim + d]" : "w[d * params.taps + u32(i)]"};
}
${flatMain("index", `${filter ? "" : "params.batch * "}params.tiles * params.dim`)}
  let d = index % params.dim;
  let tile = index / params.dim % params.tiles;
  ${
    filter
      ? `let first = i32(params.seq) - ${TILE} - i32(tile * ${TILE}u);
  let limit = i32(params.seq);`
      : `let first = i32(tile * ${TILE}u);
  let limit = i32(params.taps);`
  }
  var acc: array<f32, ${TILE}>;
  ${filter ? "for (var b = 0u; b < params.batch; b++) {" : "{ let b = index / (params.dim * params.tiles);"}
    var s = max(0, (first + 1 - limit) / ${TILE} * ${TILE});
    ${tile
      .slice(0, TILE - 1)
      .map((i) => `var w${i + TILE} = 0.0;`)
      .join(" ")}
    ${tile
      .slice(0, TILE - 1)
      .map((i) => `var w${i} = w_at(b, first - s + ${i + 1}, d);`)
      .join(" ")}
    for (; s < first + ${TILE}; s += ${TILE}) {
      // w_n stands for w[first - s + n - 7].
      ${tile
        .slice(0, TILE - 1)
        .map((i) => `w${i + TILE} = w${i};`)
        .join(" ")}
      ${tile.map((i) => `${i < TILE - 1 ? "" : "var "}w${i} = w_at(b, first - s + ${i - (TILE - 1)}, d);`).join(" ")}
      ${tile
        .map(
          (j) => `{ let value = x_at(b, s + ${j}, d);
        ${tile.map((i) => `acc[${i}] = fma(value, w${i - j + TILE - 1}, acc[${i}]);`).join(" ")} }`,
        )
        .join("\n      ")}
    }
  }
  ${tile
    .map((i) => {
      if (filter)
        return `{ let l = tile * ${TILE}u + ${TILE - 1 - i}u; if (l < params.taps) { out[d * params.taps + l] = acc[${i}]; } }`;
      const at = v.of === "y" ? "t" : "params.seq - 1u - t";
      return `{ let t = tile * ${TILE}u + ${i}u; if (t < params.seq) { out[(index / (params.dim * params.tiles) * params.seq + ${at}) * params.dim + d] = acc[${i}]; } }`;
    })
    .join("\n  ")}
}`;
};
