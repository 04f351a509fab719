import { e, elementwise, expectDType, expectRecord, expectShape, type Tensor } from "@x/kernels";
import { finite } from "./lse.js";

/** Attention over one set of keys: its output [batch, heads, queries, dim] and log-sum-exp [batch, heads, queries]. */
export interface AttentionPart {
  readonly out: Tensor;
  readonly lse: Tensor;
}

const mix = elementwise("mergeAttention", ["a", "b", "la", "lb"], (a, b, la, lb) => {
  const gap = e.min(e.max(e.sub(finite(la), finite(lb)), -80), 80);
  const weight = e.sigmoid(gap);
  return e.add(e.mul(weight, a), e.mul(e.sub(1, weight), b));
});
const join = elementwise("mergeLse", ["la", "lb", "none"], (la, lb, none) => {
  const [x, y] = [finite(la), finite(lb)];
  const high = e.max(x, y);
  const sum = e.add(high, e.log(e.add(e.exp(e.sub(x, high)), e.exp(e.sub(y, high)))));
  return e.select(e.lt(high, -1e29), none, sum);
});

/**
 * One softmax over two disjoint sets of keys from the attention over each: with w = exp(lse_a) / (exp(lse_a) +
 * exp(lse_b)), out = w out_a + (1 - w) out_b and lse = log(exp(lse_a) + exp(lse_b)). Rows that are empty in both stay 0.
 *
 * @throws ConfigError, ShapeError, DTypeError
 */
export function mergeAttention(a: AttentionPart, b: AttentionPart): AttentionPart {
  const names: Record<string, number> = {};
  for (const [name, part] of Object.entries({ a, b })) {
    const who = `mergeAttention: ${name}`;
    expectRecord("mergeAttention", name, part);
    const { out, lse } = part;
    expectShape(who, "out", out, ["batch", "heads", "queries", "dim"], names);
    expectShape(who, "lse", lse, ["batch", "heads", "queries"], names);
    expectDType(who, "out", out, "f32", "f16");
    expectDType(who, "lse", lse, "f32");
  }
  return a.out.gpu.scope(() => {
    const column = (lse: Tensor): Tensor => lse.reshape([...lse.shape, 1]);
    return {
      out: mix(a.out, b.out, column(a.lse), column(b.lse)),
      lse: join(a.lse, b.lse, -Infinity),
    };
  });
}
