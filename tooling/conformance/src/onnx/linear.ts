import { add, div, elementwise, e, matmul, mul, sub, type Tensor } from "@x/kernels";
import type { OnnxMappings } from "./node.js";

/** G + norm_coefficient X, in one kernel; the rest of Adam is written out below it. */
const decayed = elementwise("decayed", ["g", "x", "c"], (g, x, c) => e.add(g, e.mul(c, x)));
const moment = elementwise("moment", ["old", "x", "keep"], (old, x, keep) =>
  e.add(e.mul(keep, old), e.mul(e.sub(1, keep), x)),
);
const stepOf = elementwise("step", ["v", "h", "epsilon"], (v, h, epsilon) =>
  e.div(v, e.add(e.sqrt(h), epsilon)),
);

/** NumPy's product: a vector is a row on the left and a column on the right, and the axis that it got is dropped. */
function product(a: Tensor, b: Tensor): Tensor {
  const [left, right] = [a.rank === 1, b.rank === 1];
  const out = matmul(left ? a.reshape([1, a.size]) : a, right ? b.reshape([b.size, 1]) : b);
  const shape = [...out.shape];
  if (right) shape.pop();
  if (left) shape.splice(right ? -1 : -2, 1);
  return out.reshape(shape);
}

/** Matrix products, and the optimizer whose decay is part of the gradient. */
export const linearOperators: OnnxMappings = {
  MatMul: (node) => [product(node.need(0), node.need(1))],
  Gemm: (node) => {
    const out = matmul(node.need(0), node.need(1), {
      transposeA: node.flag("transA"),
      transposeB: node.flag("transB"),
      alpha: node.number("alpha", 1),
    });
    const c = node.input(2);
    const beta = node.number("beta", 1);
    return [c ? add(out, mul(c, beta)) : out];
  },
  Adam: (node) => {
    const [rate, step] = [node.host(0)![0]!, node.host(1)![0]!];
    const [alpha, beta] = [node.number("alpha", 0.9), node.number("beta", 0.999)];
    const epsilon = node.number("epsilon", 1e-6);
    const [before, after] = [node.number("norm_coefficient", 0), node.number("norm_coefficient_post", 0)];
    const adjusted = step > 0 ? (rate * Math.sqrt(1 - beta ** step)) / (1 - alpha ** step) : rate;
    const n = (node.inputs - 2) / 4;
    const results = Array.from({ length: n }, (_, i) => {
      const [x, g, v, h] = [0, 1, 2, 3].map((part) => node.need(2 + part * n + i)) as [
        Tensor,
        Tensor,
        Tensor,
        Tensor,
      ];
      const gradient = decayed(g, x, before);
      const [first, second] = [moment(v, gradient, alpha), moment(h, mul(gradient, gradient), beta)];
      const next = sub(x, mul(stepOf(first, second, epsilon), adjusted));
      return [div(mul(next, 1 - after), 1), first, second] as const;
    });
    return [0, 1, 2].flatMap((part) => results.map((r) => r[part]));
  },
};
