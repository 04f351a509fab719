import type { Discretization } from "./selective_scan.js";

type Numbers = ArrayLike<number>;

export interface ScanSizes {
  readonly batch: number;
  readonly seq: number;
  readonly dim: number;
  readonly states: number;
  readonly deltaSoftplus?: boolean;
  readonly discretization?: Discretization;
}

export interface ScanInputs {
  readonly u: Numbers;
  readonly delta: Numbers;
  readonly a: Numbers;
  readonly b: Numbers;
  readonly c: Numbers;
  readonly z?: Numbers | undefined;
  readonly state?: Numbers | undefined;
  readonly dSkip?: Numbers | undefined;
  readonly deltaBias?: Numbers | undefined;
}

const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const silu = (x: number): number => x / (1 + Math.exp(-x));

/** The selective scan token by token: out [B, T, D] and the last state [B, D, N]. */
export function selectiveScanReference(
  { batch, seq, dim, states, deltaSoftplus = true, discretization = "mamba" }: ScanSizes,
  { u, delta, a, b, c, z, state, dSkip, deltaBias }: ScanInputs,
): { out: Float64Array; state: Float64Array } {
  const x = Float64Array.from({ length: batch * dim * states }, (_, i) => state?.[i] ?? 0);
  const out = new Float64Array(batch * seq * dim);
  for (let row = 0; row < batch * seq; row++)
    for (let d = 0; d < dim; d++) {
      const at = row * dim + d;
      const raw = delta[at]! + (deltaBias?.[d] ?? 0);
      const step = deltaSoftplus ? softplus(raw) : raw;
      let y = (dSkip?.[d] ?? 0) * u[at]!;
      for (let n = 0; n < states; n++) {
        const [i, decay] = [(Math.floor(row / seq) * dim + d) * states + n, a[d * states + n]!];
        const gain = discretization === "zoh" ? Math.expm1(step * decay) / decay : step;
        x[i] = Math.exp(step * decay) * x[i]! + gain * b[row * states + n]! * u[at]!;
        y += c[row * states + n]! * x[i];
      }
      out[at] = z ? y * silu(z[at]!) : y;
    }
  return { out, state: x };
}
