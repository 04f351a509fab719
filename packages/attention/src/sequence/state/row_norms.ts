import { defineKernel, grid1d, type Kernel, type Tensor, flatMain } from "@x/kernels";
import type { FirstPosition } from "./rotation.js";

interface NormsVariant {
  readonly onDevice: boolean;
}

const normsKernel: Kernel<NormsVariant> = defineKernel({
  name: "retentionRowNorms",
  bindings: (v: NormsVariant) => ({
    log_decay: "read f32" as const,
    ...(v.onDevice ? { first: "read f32" as const } : {}),
    out: "write f32" as const,
  }),
  params: { count: "u32", heads: "u32", tokens: "u32", heads_first: "u32", offset: "u32" },
  wgsl: (v) => /* wgsl */ `
// e^x - 1 for x <= 0: near 0 by its series, of which eight terms are below a unit in the last place.
fn expm1(x: f32) -> f32 {
  if (x < -0.5) { return exp(x) - 1.0; }
  var sum = 1.0;
  for (var n = 9u; n > 1u; n--) { sum = fma(x / f32(n), sum, 1.0); }
  return x * sum;
}
${flatMain("i", "params.count")}
  let by_head = params.heads_first != 0u;
  let h = select(i % params.heads, i / params.tokens, by_head);
  let t = select(i / params.heads, i % params.tokens, by_head);
  let terms = f32(t + 1u + ${v.onDevice ? "u32(first[0])" : "params.offset"});
  let x = log_decay[h];
  if (x == 0.0) { out[i] = inverseSqrt(terms); } else { out[i] = sqrt(expm1(x) / expm1(terms * x)); }
}`,
});

/** RetNet's factor of each row, (sum_{j=0..n} gamma^j)^-0.5 at position n: [heads, tokens, 1] or [tokens, heads, 1]. */
export function rowNorms(
  logDecay: Tensor,
  tokens: number,
  first: FirstPosition,
  order: "heads" | "tokens",
): Tensor {
  const { gpu } = logDecay;
  const heads = logDecay.size;
  const out = gpu.empty(order === "heads" ? [heads, tokens, 1] : [tokens, heads, 1]);
  const onDevice = typeof first !== "number";
  gpu.run(normsKernel, {
    variant: { onDevice },
    bindings: { log_decay: logDecay, first: onDevice ? first : undefined, out },
    params: {
      count: out.size,
      heads,
      tokens,
      heads_first: order === "heads" ? 1 : 0,
      offset: onDevice ? 0 : first,
    },
    workgroups: grid1d(Math.ceil(out.size / 64)),
  });
  return out;
}
