import { ShapeError } from "../../base/errors.js";
import { showShape } from "../../base/validate.js";

/** Merge batch axes that both operands step through alike, to at most four. */
export function batchLayout(
  who: string,
  batch: readonly number[],
  a: readonly number[],
  b: readonly number[],
  sizeA: number,
  sizeB: number,
): { dims: number[]; strideA: number[]; strideB: number[] } {
  const strides = (shape: readonly number[], unit: number): number[] => {
    const out = new Array<number>(batch.length).fill(0);
    let stride = unit;
    for (let i = shape.length - 1; i >= 0; i--) {
      if (shape[i] !== 1) out[i + batch.length - shape.length] = stride;
      stride *= shape[i] ?? 1;
    }
    return out;
  };
  const [sa, sb] = [strides(a, sizeA), strides(b, sizeB)];
  const dims: number[] = [];
  const strideA: number[] = [];
  const strideB: number[] = [];
  for (let i = batch.length - 1; i >= 0; i--) {
    const n = batch[i] ?? 1;
    if (n === 1) continue;
    const [x = 0, y = 0] = [sa[i], sb[i]];
    const inner = dims[0];
    if (inner !== undefined && x === (strideA[0] ?? 0) * inner && y === (strideB[0] ?? 0) * inner) {
      dims[0] = inner * n;
      continue;
    }
    dims.unshift(n);
    strideA.unshift(x);
    strideB.unshift(y);
  }
  if (dims.length > 4)
    throw new ShapeError(who, `batch axes ${showShape(batch)} broadcast in more than four groups`);
  while (dims.length < 4) {
    dims.unshift(1);
    strideA.unshift(0);
    strideB.unshift(0);
  }
  return { dims, strideA, strideB };
}
