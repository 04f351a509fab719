import { describe, it } from "vitest";
import { useGpu } from "@x/testing";
import type { Scalar } from "../state/exact.reference.js";
import {
  checkExact,
  cycle,
  randomData as random,
  range,
  strengths,
  zero,
  type Recurrence,
  type Strength,
} from "../test-support.js";
import { gatedRetention, retention, rgLru, rwkv6, selectiveScan, ssd, wkv } from "../index.js";

/*
 * Every recurrence, value and gradient of every tensor, where decays are weak, strong and both: an element may be off by what
 * rounding makes of the terms that it is the sum of. So an exact 0 is met exactly, whatever else is large.
 */

const lengths = [1, 3, 70] as const;

describe("gradients of strong and weak decays", () => {
  const device = useGpu();

  const check = (of: Recurrence): Promise<void> => checkExact(device.gpu, of);
  const cases = Object.keys(strengths).flatMap((strength) =>
    lengths.map((tokens) => [strength as Strength, tokens] as const),
  );

  it.each(cases)("wkv, %s, %i tokens", async (strength, tokens) => {
    const dim = 7;
    await check({
      operands: {
        k: random([1, tokens, dim], 1),
        v: random([1, tokens, dim], 2),
        decay: cycle(
          [dim],
          strength === "mixed" ? [-1e3, -14, -1, 2, 5, 88.8, 1e3] : strengths[strength].map(Math.log),
        ),
        first: random([dim], 3),
      },
      gpu: ({ k, v, decay, first }) => [wkv(k!, v!, decay!, first!).out],
      exact: (tape, { k, v, decay, first }) => {
        const out: Scalar[] = [];
        const num: Scalar[] = Array<Scalar>(dim).fill(zero);
        const den: Scalar[] = Array<Scalar>(dim).fill(zero);
        for (let t = 0; t < tokens; t++)
          for (let d = 0; d < dim; d++) {
            const [key, value] = [k![t * dim + d]!, v![t * dim + d]!];
            const bonus = tape.exp(tape.add(key, first![d]!));
            out.push(tape.div(tape.add(num[d]!, tape.mul(bonus, value)), tape.add(den[d]!, bonus)));
            const keep = tape.map(decay![d]!, keepOf, (x) => -Math.exp(Math.min(x, 700) - Math.exp(x)));
            const enters = tape.exp(key);
            num[d] = tape.add(tape.mul(keep, num[d]!), tape.mul(enters, value));
            den[d] = tape.add(tape.mul(keep, den[d]!), enters);
          }
        return out;
      },
    });
  });

  it.each(cases)("rwkv6, %s, %i tokens", async (strength, tokens) => {
    const dim = 3;
    await check({
      operands: {
        r: random([1, 1, tokens, dim], 1),
        k: random([1, 1, tokens, dim], 2),
        v: random([1, 1, tokens, dim], 3),
        w: cycle(
          [1, 1, tokens, dim],
          [...strengths[strength].map(Math.log), ...(strength === "weak" ? [] : [1e3])],
        ),
        u: random([1, dim], 5),
        state: random([1, 1, dim, dim], 6),
      },
      gpu: ({ r, k, v, w, u, state }) => {
        const next = rwkv6(r!, k!, v!, w!, u!, { state: state! });
        return [next.out, next.state];
      },
      exact: (tape, { r, k, v, w, u, state }) => {
        const out: Scalar[] = [];
        const s = [...state!];
        for (let t = 0; t < tokens; t++) {
          for (let e = 0; e < dim; e++) {
            const terms = range(dim).map((d) => {
              const enters = tape.mul(k![t * dim + d]!, v![t * dim + e]!);
              return tape.mul(r![t * dim + d]!, tape.add(s[d * dim + e]!, tape.mul(u![d]!, enters)));
            });
            out.push(tape.add(...terms));
          }
          for (let d = 0; d < dim; d++) {
            const keep = tape.map(w![t * dim + d]!, keepOf, (x) => -Math.exp(Math.min(x, 700) - Math.exp(x)));
            for (let e = 0; e < dim; e++)
              s[d * dim + e] = tape.add(
                tape.mul(keep, s[d * dim + e]!),
                tape.mul(k![t * dim + d]!, v![t * dim + e]!),
              );
          }
        }
        return [...out, ...s];
      },
    });
  });

  const forms = [{ form: "parallel" }, { form: "recurrent" }, { form: "chunkwise", chunkSize: 5 }] as const;
  it.each(cases.flatMap(([strength, tokens]) => forms.map((form) => [strength, tokens, form] as const)))(
    "gatedRetention, %s, %i tokens, %o",
    async (strength, tokens, form) => {
      const [dim, valueDim] = [3, 2];
      await check({
        operands: {
          q: random([1, 1, tokens, dim], 1),
          k: random([1, 1, tokens, dim], 2),
          v: random([1, 1, tokens, valueDim], 3),
          decay: cycle(
            [1, 1, tokens],
            strengths[strength].map((x) => -x),
          ),
          state: random([1, 1, dim, valueDim], 6),
        },
        gpu: ({ q, k, v, decay, state }) => {
          const next = gatedRetention(q!, k!, v!, decay!, { ...form, scale: 0.5, state: state! });
          return [next.out, next.state];
        },
        exact: (tape, { q, k, v, decay, state }) => {
          const out: Scalar[] = [];
          const s = [...state!];
          for (let t = 0; t < tokens; t++) {
            const keep = tape.exp(decay![t]!);
            for (let d = 0; d < dim; d++)
              for (let e = 0; e < valueDim; e++)
                s[d * valueDim + e] = tape.add(
                  tape.mul(keep, s[d * valueDim + e]!),
                  tape.scale(tape.mul(k![t * dim + d]!, v![t * valueDim + e]!), 0.5),
                );
            for (let e = 0; e < valueDim; e++)
              out.push(tape.add(...range(dim).map((d) => tape.mul(q![t * dim + d]!, s[d * valueDim + e]!))));
          }
          return [...out, ...s];
        },
      });
    },
  );

  it.each(cases.flatMap(([strength, tokens]) => forms.map((form) => [strength, tokens, form] as const)))(
    "retention, %s, %i tokens, %o",
    async (strength, tokens, form) => {
      const [dim, valueDim] = [3, 2];
      // The least gamma lies below float32.
      const gammas = [...strengths[strength].map((x) => Math.max(Math.exp(-x), 1e-300)), 1];
      const heads = gammas.length;
      await check({
        operands: {
          q: random([1, heads, tokens, dim], 1),
          k: random([1, heads, tokens, dim], 2),
          v: random([1, heads, tokens, valueDim], 3),
          state: random([1, heads, dim, valueDim], 6),
        },
        gpu: ({ q, k, v, state }) => {
          const next = retention(q!, k!, v!, {
            ...form,
            ...{ decay: gammas, decayNorm: true, offset: 2, scale: 0.5, state: state! },
          });
          return [next.out, next.state];
        },
        exact: (tape, { q, k, v, state }) => {
          const out: Scalar[] = [];
          const s = [...state!];
          for (const [h, gamma] of gammas.entries())
            for (let t = 0; t < tokens; t++) {
              const row = h * tokens + t;
              const norm = range(t + 3).reduce((sum, j) => sum + gamma ** j, 0) ** -0.5;
              for (let e = 0; e < valueDim; e++) {
                const terms = range(dim).map((d) => {
                  const place = (h * dim + d) * valueDim + e;
                  const enters = tape.mul(k![row * dim + d]!, v![row * valueDim + e]!);
                  s[place] = tape.add(tape.scale(s[place]!, gamma), tape.scale(enters, 0.5));
                  return tape.mul(q![row * dim + d]!, s[place]);
                });
                out.push(tape.scale(tape.add(...terms), norm));
              }
            }
          return [...out, ...s];
        },
      });
    },
  );

  it.each(
    cases.flatMap(([strength, tokens]) =>
      [{ form: "chunkwise" } as const, ...forms].map((form) => [strength, tokens, form] as const),
    ),
  )("ssd, %s, %i tokens, %o", async (strength, tokens, form) => {
    const [headDim, stateSize] = [2, 3];
    await check({
      operands: {
        x: random([1, 1, tokens, headDim], 1),
        dt: random([1, 1, tokens], 2, strength === "weak" ? 1e-3 : 3, strength === "strong" ? 3 : 0),
        b: random([1, 1, tokens, stateSize], 3),
        c: random([1, 1, tokens, stateSize], 4),
        a: cycle([1], [strength === "weak" ? -1e-6 : strength === "strong" ? -1e3 : -2]),
        dSkip: random([1], 5),
        dtBias: cycle([1], [strength === "mixed" ? -1.5 : 0.1]),
        state: random([1, 1, headDim, stateSize], 6),
      },
      gpu: ({ x, dt, b, c, a, dSkip, dtBias, state }) => {
        const next = ssd(
          x!,
          dt!,
          b!,
          c!,
          { a: a!, dSkip: dSkip!, dtBias: dtBias! },
          { ...form, state: state!, dtSoftplus: true },
        );
        return [next.out, next.state];
      },
      exact: (tape, { x, dt, b, c, a, dSkip, dtBias, state }) => {
        const out: Scalar[] = [];
        const s = [...state!];
        for (let t = 0; t < tokens; t++) {
          const step = tape.softplus(tape.add(dt![t]!, dtBias![0]!));
          const keep = tape.exp(tape.mul(step, a![0]!));
          for (let p = 0; p < headDim; p++) {
            const value = x![t * headDim + p]!;
            const enters = tape.mul(step, value);
            for (let n = 0; n < stateSize; n++)
              s[p * stateSize + n] = tape.add(
                tape.mul(keep, s[p * stateSize + n]!),
                tape.mul(enters, b![t * stateSize + n]!),
              );
            out.push(
              tape.add(
                tape.mul(dSkip![0]!, value),
                ...range(stateSize).map((n) => tape.mul(s[p * stateSize + n]!, c![t * stateSize + n]!)),
              ),
            );
          }
        }
        return [...out, ...s];
      },
    });
  });

  it.each(
    cases.flatMap(([strength, tokens]) =>
      (["mamba", "zoh"] as const).map((d) => [strength, tokens, d] as const),
    ),
  )("selectiveScan, %s, %i tokens, %s", async (strength, tokens, discretization) => {
    const [dim, states] = [2, 3];
    await check({
      operands: {
        u: random([1, tokens, dim], 1),
        delta: cycle(
          [1, tokens, dim],
          strength === "weak" ? [-14, -9, -3] : [-100, 20, 0.5, -10, 3, 1e3, -2],
        ),
        a: cycle(
          [dim, states],
          strengths[strength].map((x) => -x),
        ),
        b: random([1, tokens, states], 3),
        c: random([1, tokens, states], 4),
        z: cycle([1, tokens, dim], [-100, 30, 0.2, -15, 5]),
        dSkip: random([dim], 5),
        deltaBias: random([dim], 6),
        state: random([1, dim, states], 7),
      },
      gpu: ({ u, delta, a, b, c, ...options }) => {
        const next = selectiveScan(u!, delta!, a!, b!, c!, { ...options, discretization });
        return [next.out, next.state];
      },
      exact: (tape, { u, delta, a, b, c, z, dSkip, deltaBias, state }) => {
        const out: Scalar[] = [];
        const s = [...state!];
        for (let t = 0; t < tokens; t++)
          for (let d = 0; d < dim; d++) {
            const at = t * dim + d;
            const step = tape.softplus(tape.add(delta![at]!, deltaBias![d]!));
            const terms = range(states).map((n) => {
              const place = d * states + n;
              const log = tape.mul(step, a![place]!);
              const factor = discretization === "mamba" ? step : tape.mul(step, tape.map(log, phi, phiSlope));
              s[place] = tape.add(
                tape.mul(tape.exp(log), s[place]!),
                tape.mul(factor, tape.mul(b![t * states + n]!, u![at]!)),
              );
              return tape.mul(c![t * states + n]!, s[place]);
            });
            const y = tape.add(...terms, tape.mul(dSkip![d]!, u![at]!));
            const gate = tape.map(z![at]!, (x) => x * sigmoid(x), siluSlope);
            out.push(tape.mul(y, gate));
          }
        return [...out, ...s];
      },
    });
  });

  it.each(cases)("rgLru, %s, %i tokens", async (strength, tokens) => {
    const width = 2;
    const shift = { weak: -15, strong: 1e3, mixed: 0.5 }[strength];
    await check({
      operands: {
        x: cycle([1, tokens, width], [0.5, -1, 2, 0.25, -0.75]),
        wInput: cycle([2, 1, 1], strength === "mixed" ? [40, -12] : [1, -0.5]),
        bInput: random([2, 1], 2),
        wRec: cycle([2, 1, 1], strength === "mixed" ? [-15, 30] : [0.3, 2]),
        bRec: random([2, 1], 4),
        aParam: cycle([width], [shift, shift + 0.5]),
        state: random([1, width], 6),
      },
      gpu: ({ x, state, wInput, bInput, wRec, bRec, aParam }) => {
        const next = rgLru(
          x!,
          { wInput: wInput!, bInput: bInput!, wRec: wRec!, bRec: bRec!, aParam: aParam! },
          { state: state! },
        );
        return [next.out, next.state];
      },
      exact: (tape, { x, wInput, bInput, wRec, bRec, aParam, state }) => {
        const out: Scalar[] = [];
        const h = [...state!];
        for (let t = 0; t < tokens; t++)
          for (let d = 0; d < width; d++) {
            const value = x![t * width + d]!;
            const open = tape.sigmoid(tape.add(tape.mul(value, wInput![d]!), bInput![d]!));
            const r = tape.sigmoid(tape.add(tape.mul(value, wRec![d]!), bRec![d]!));
            const log = tape.scale(tape.mul(r, tape.softplus(aParam![d]!)), -8);
            // The root's slope is held at 1000, as the reference's.
            const gain = tape.map(
              log,
              (l) => Math.sqrt(-Math.expm1(2 * l)),
              (l) => -2 * Math.exp(2 * l) * Math.min(0.5 / Math.sqrt(-Math.expm1(2 * l)), 1000),
            );
            const next = tape.add(tape.mul(tape.exp(log), h[d]!), tape.mul(gain, tape.mul(open, value)));
            h[d] = next;
            out.push(next);
          }
        return [...out, ...h];
      },
    });
  });
});

const keepOf = (x: number): number => Math.exp(-Math.exp(x));
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const siluSlope = (x: number): number => sigmoid(x) * (1 + x * sigmoid(-x));
const phi = (x: number): number => (x === 0 ? 1 : Math.expm1(x) / x);
const phiSlope = (x: number): number =>
  Math.abs(x) < 1e-2
    ? 1 / 2 + x / 3 + (x * x) / 8 + (x * x * x) / 30 + x ** 4 / 144
    : (Math.exp(x) - phi(x)) / x;
