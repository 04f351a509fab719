type Numbers = ArrayLike<number>;

export interface RgLruSizes {
  readonly batch: number;
  readonly seq: number;
  readonly blocks: number;
  readonly block: number;
  readonly c?: number;
}

export interface RgLruInputs {
  readonly x: Numbers;
  readonly wInput: Numbers;
  readonly bInput: Numbers;
  readonly wRec: Numbers;
  readonly bRec: Numbers;
  readonly aParam: Numbers;
  readonly state?: Numbers | undefined;
  readonly segmentPos?: Numbers | undefined;
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** The RG-LRU token by token: h [B, T, W]. */
export function rgLruReference(
  { batch, seq, blocks, block, c = 8 }: RgLruSizes,
  { x, wInput, bInput, wRec, bRec, aParam, state, segmentPos }: RgLruInputs,
): Float64Array {
  const width = blocks * block;
  const out = new Float64Array(batch * seq * width);
  for (let row = 0; row < batch * seq; row++)
    for (let d = 0; d < width; d++) {
      const [head, j] = [Math.floor(d / block), d % block];
      const gate = (w: Numbers, bias: Numbers): number => {
        let sum = bias[d]!;
        for (let i = 0; i < block; i++)
          sum += x[row * width + head * block + i]! * w[(head * block + i) * block + j]!;
        return sigmoid(sum);
      };
      const fresh = segmentPos?.[row] === 0;
      const logA = -c * gate(wRec, bRec) * softplus(aParam[d]!);
      const before =
        row % seq > 0 ? out[(row - 1) * width + d]! : (state?.[Math.floor(row / seq) * width + d] ?? 0);
      const gated = gate(wInput, bInput) * x[row * width + d]!;
      out[row * width + d] = fresh
        ? gated
        : Math.exp(logA) * before + Math.sqrt(-Math.expm1(2 * logA)) * gated;
    }
  return out;
}
