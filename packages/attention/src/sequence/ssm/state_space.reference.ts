import type { Numbers } from "../../engine/attention.reference.js";
import { at, cadd, cdiv, cexp, cmul, type Complex } from "../state/complex.reference.js";

/** The pole of one step and the factor of what enters. */
export interface Discrete {
  readonly a: Complex;
  readonly f: Complex;
}

/** Zero-order hold, or the bilinear rule, of the pole A with step dt. */
export function discretize(rule: "zoh" | "bilinear", A: Complex, dt: number): Discrete {
  const z: Complex = [A[0] * dt, A[1] * dt];
  if (rule === "bilinear") {
    const below: Complex = [1 - z[0] / 2, -z[1] / 2];
    return { a: cdiv([1 + z[0] / 2, z[1] / 2], below), f: cdiv([dt, 0], below) };
  }
  // e^z - 1 at full precision: (e^x - 1) cos y - 2 sin^2(y / 2) + i e^x sin y.
  const less: Complex = [
    Math.expm1(z[0]) * Math.cos(z[1]) - 2 * Math.sin(z[1] / 2) ** 2,
    Math.exp(z[0]) * Math.sin(z[1]),
  ];
  return { a: cexp(z), f: cdiv(less, A) };
}

/**
 * x_t = a x_{t-1} + f (b u_t), y_t = factor Re(c x_t) + dSkip u_t over the tokens in order: outputs [batch, seq, dim],
 * then the states [batch, states, 2]. With `backward` a second scan from the last token back.
 */
export function diagonalReference(
  sizes: { readonly batch: number; readonly seq: number; readonly dim: number; readonly states: number },
  discrete: readonly Discrete[],
  u: Numbers,
  b: Numbers,
  c: Numbers,
  dSkip: Numbers,
  options: { readonly state?: Numbers | undefined; readonly factor: number; readonly backward?: boolean },
): number[] {
  const { batch, seq, dim, states } = sizes;
  const { state, factor, backward = false } = options;
  const width = backward ? 2 * states : states;
  const out = new Array<number>(batch * seq * dim).fill(0);
  const last: number[] = [];
  for (let s = 0; s < batch; s++)
    for (const back of backward ? [false, true] : [false]) {
      const x = Array.from({ length: states }, (_, p): Complex =>
        state && !back ? at(state, s * states + p) : [0, 0],
      );
      for (let step = 0; step < seq; step++) {
        const row = (s * seq + (back ? seq - 1 - step : step)) * dim;
        for (const [p, { a, f }] of discrete.entries()) {
          let enters: Complex = [0, 0];
          for (let h = 0; h < dim; h++) enters = cadd(enters, cmul(at(b, p * dim + h), [u[row + h]!, 0]));
          x[p] = cadd(cmul(a, x[p]!), cmul(f, enters));
        }
        for (let h = 0; h < dim; h++)
          for (let p = 0; p < states; p++)
            out[row + h]! += factor * cmul(at(c, h * width + (back ? states : 0) + p), x[p]!)[0];
      }
      if (!back) last.push(...x.flat());
    }
  return [...out.map((y, i) => y + dSkip[i % dim]! * u[i]!), ...last];
}

/** Causal convolution of every channel: x [batch, seq, dim], filter [dim, taps]. */
export function convolutionReference(
  sizes: { readonly batch: number; readonly seq: number; readonly dim: number; readonly taps: number },
  x: Numbers,
  filter: Numbers,
): Float64Array {
  const { batch, seq, dim, taps } = sizes;
  return Float64Array.from({ length: batch * seq * dim }, (_, i) => {
    const [d, t, b] = [i % dim, Math.floor(i / dim) % seq, Math.floor(i / (dim * seq))];
    let sum = 0;
    for (let l = 0; l < Math.min(taps, t + 1); l++)
      sum += filter[d * taps + l]! * x[(b * seq + t - l) * dim + d]!;
    return sum;
  });
}

/**
 * The models of all channels, token by token: y_t = 2 Re(sum_n c_n x_{t,n}) + dSkip u_t; outputs [batch, seq, dim], then
 * the states [batch, dim, states, 2].
 */
export function channelsReference(
  sizes: { readonly batch: number; readonly seq: number; readonly dim: number; readonly states: number },
  rule: "zoh" | "bilinear",
  u: Numbers,
  [logDt, logAReal, aImag, c, dSkip]: readonly [Numbers, Numbers, Numbers, Numbers, Numbers],
  state?: Numbers,
): number[] {
  const { batch, seq, dim, states } = sizes;
  const out = new Array<number>(batch * seq * dim).fill(0);
  const last: number[] = [];
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < dim; h++) {
      const models = Array.from({ length: states }, (_, n) =>
        discretize(rule, [-Math.exp(logAReal[h * states + n]!), aImag[h * states + n]!], Math.exp(logDt[h]!)),
      );
      const x = models.map((_, n): Complex => (state ? at(state, (b * dim + h) * states + n) : [0, 0]));
      for (let t = 0; t < seq; t++) {
        const i = (b * seq + t) * dim + h;
        let y = dSkip[h]! * u[i]!;
        for (const [n, { a, f }] of models.entries()) {
          x[n] = cadd(cmul(a, x[n]!), cmul(f, [u[i]!, 0]));
          y += 2 * cmul(at(c, h * states + n), x[n])[0];
        }
        out[i] = y;
      }
      last.push(...x.flat());
    }
  return [...out, ...last];
}
