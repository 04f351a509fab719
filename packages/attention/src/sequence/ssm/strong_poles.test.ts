import { describe, it } from "vitest";
import type { Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import type { ComplexScalar, Scalar, Tape } from "../state/exact.reference.js";
import { h3, lru, s4d, s5 } from "../index.js";
import { cadd, cdiv, cexp, cmul, type Complex } from "../state/complex.reference.js";
import { checkExact, cycle, randomData, range } from "../test-support.js";

/*
 * Diagonal models at poles from almost 1 to 0: values and the gradient of every tensor against exact derivatives, relative
 * to the terms of each element.
 */

const one: Complex = [1, 0];
/** (e^z - 1) / z and its slope, by their series near 0. */
function phi(z: Complex): Complex {
  if (Math.hypot(...z) > 1) return cdiv(cadd(cexp(z), [-1, 0]), z);
  let sum = one;
  for (let n = 20; n > 1; n--) sum = cadd(one, cmul(sum, [z[0] / n, z[1] / n]));
  return sum;
}
function phiSlope(z: Complex): Complex {
  if (Math.hypot(...z) > 1) return cdiv(cadd(cexp(z), cmul([-1, 0], phi(z))), z);
  let [sum, factorial]: [Complex, number] = [[0, 0], 1];
  let power = one;
  for (let n = 0; n < 20; n++) {
    factorial *= n + 2;
    sum = cadd(sum, cmul([(n + 1) / factorial, 0], power));
    power = cmul(power, z);
  }
  return sum;
}
const half = (z: Complex): Complex => [z[0] / 2, z[1] / 2];
const below = (z: Complex): Complex => cadd(one, cmul([-1, 0], half(z)));

type Rule = "zoh" | "bilinear";

/** The pole and the factor of what enters, of z = dt A. */
function discrete(
  tape: Tape,
  rule: Rule,
  z: ComplexScalar,
  dt: Scalar,
): { a: ComplexScalar; f: ComplexScalar } {
  const times = (x: ComplexScalar): ComplexScalar => [tape.mul(dt, x[0]), tape.mul(dt, x[1])];
  return rule === "zoh"
    ? { a: tape.holomorphic(z, cexp, cexp), f: times(tape.holomorphic(z, phi, phiSlope)) }
    : {
        a: tape.holomorphic(
          z,
          (x) => cdiv(cadd(one, half(x)), below(x)),
          (x) => cdiv(one, cmul(below(x), below(x))),
        ),
        f: times(
          tape.holomorphic(
            z,
            (x) => cdiv(one, below(x)),
            (x) => cdiv([0.5, 0], cmul(below(x), below(x))),
          ),
        ),
      };
}

const pair = (x: readonly Scalar[], i: number): ComplexScalar => [x[2 * i]!, x[2 * i + 1]!];

/** ln of what a token forgets at one step. */
const strengths = {
  weak: [1e-6, 1e-4, 3e-3],
  strong: [20, 89, 1e3],
  mixed: [1e-6, 0.7, 90],
} as const;

describe("gradients of strong and weak poles", () => {
  const device = useGpu();
  const cases = (Object.keys(strengths) as (keyof typeof strengths)[]).flatMap((strength) =>
    [1, 3, 70].map((tokens) => [strength, tokens] as const),
  );
  const [dim, states] = [2, 3];

  /** x_t = a x_{t-1} + f (b u_t), y_t = factor Re(c x_t) + dSkip u_t. */
  function model(
    tape: Tape,
    poles: readonly { a: ComplexScalar; f: ComplexScalar }[],
    t: Readonly<Record<string, readonly Scalar[]>>,
    factor: number,
    tokens: number,
  ): Scalar[] {
    const { u, b, c, dSkip, state } = t as Record<"u" | "b" | "c" | "dSkip" | "state", readonly Scalar[]>;
    const out: Scalar[] = [];
    const x = range(states).map((n) => pair(state, n));
    for (let step = 0; step < tokens; step++) {
      const own = u.slice(step * dim, (step + 1) * dim);
      for (const n of range(states)) {
        const parts = own.map((value, d): ComplexScalar => {
          const [re, im] = pair(b, n * dim + d);
          return [tape.mul(value, re), tape.mul(value, im)];
        });
        x[n] = tape.cadd(tape.cmul(poles[n]!.a, x[n]!), tape.cmul(poles[n]!.f, tape.cadd(...parts)));
      }
      for (const d of range(dim)) {
        const terms = range(states).map((n) => tape.cmul(pair(c, d * states + n), x[n]!)[0]);
        out.push(tape.add(tape.scale(tape.add(...terms), factor), tape.mul(dSkip[d]!, own[d]!)));
      }
    }
    return [...out, ...x.flat()];
  }

  const projections = (tokens: number): Record<string, ReturnType<typeof randomData>> => ({
    u: randomData([1, tokens, dim], 1),
    b: randomData([states, dim, 2], 2),
    c: randomData([dim, states, 2], 3),
    dSkip: randomData([dim], 4),
    state: randomData([1, states, 2], 5),
  });
  const rest = (t: Readonly<Record<string, Tensor>>): { b: Tensor; c: Tensor; dSkip: Tensor } => ({
    b: t["b"]!,
    c: t["c"]!,
    dSkip: t["dSkip"]!,
  });

  it.each([...cases, ["beyond float32", 3] as const])("lru, %s, %i tokens", async (strength, tokens) => {
    await checkExact(device.gpu, {
      operands: {
        ...projections(tokens),
        nuLog: cycle(
          [states],
          strength === "beyond float32" ? [1e3, 88.8, -1e3] : strengths[strength].map(Math.log),
        ),
        thetaLog: cycle([states], [-3, 0.4, 1]),
        gammaLog: cycle([states], [-7, -0.5, 0.3]),
      },
      gpu: (t) => {
        const { u, state, nuLog, thetaLog, gammaLog } = t;
        const next = lru(
          u!,
          { nuLog: nuLog!, thetaLog: thetaLog!, gammaLog: gammaLog!, ...rest(t) },
          { state: state! },
        );
        return [next.out, next.state];
      },
      exact: (tape, t) => {
        const zero = tape.variable(0);
        const poles = range(states).map((n) => {
          const z: ComplexScalar = [tape.scale(tape.exp(t["nuLog"]![n]!), -1), tape.exp(t["thetaLog"]![n]!)];
          return {
            a: tape.holomorphic(z, cexp, cexp),
            f: [tape.exp(t["gammaLog"]![n]!), zero] as ComplexScalar,
          };
        });
        return model(tape, poles, t, 1, tokens);
      },
    });
  });

  const rules = ["zoh", "bilinear"] as const;
  it.each(cases.flatMap(([strength, tokens]) => rules.map((rule) => [strength, tokens, rule] as const)))(
    "s5, %s, %i tokens, %s",
    async (strength, tokens, discretization) => {
      await checkExact(device.gpu, {
        operands: {
          ...projections(tokens),
          lambdaRe: cycle(
            [states],
            strengths[strength].map((x) => -2 * x),
          ),
          lambdaIm: cycle([states], [0.1, 2, 30]),
          logStep: cycle([states], [-0.7]),
        },
        gpu: (t) => {
          const { u, state, lambdaRe, lambdaIm, logStep } = t;
          const next = s5(
            u!,
            { lambdaRe: lambdaRe!, lambdaIm: lambdaIm!, logStep: logStep!, ...rest(t) },
            { state: state!, discretization },
          );
          return [next.out, next.state];
        },
        exact: (tape, t) => {
          const poles = range(states).map((n) => {
            const dt = tape.exp(t["logStep"]![n]!);
            const z: ComplexScalar = [tape.mul(dt, t["lambdaRe"]![n]!), tape.mul(dt, t["lambdaIm"]![n]!)];
            return discrete(tape, discretization, z, dt);
          });
          return model(tape, poles, t, 2, tokens);
        },
      });
    },
  );

  const forms = ["conv", "recurrent"] as const;
  /** y_t = 2 Re(sum_n c_n x_t) + dSkip u_t of one channel whose B is 1, and the last state. */
  function channel(
    tape: Tape,
    rule: Rule,
    inputs: readonly Scalar[],
    t: Readonly<Record<string, readonly Scalar[]>>,
  ): Scalar[] {
    const dt = tape.exp(t["logDt"]![0]!);
    const x = range(states).map((n) => pair(t["state"]!, n));
    const poles = range(states).map((n) => {
      const re = tape.scale(tape.mul(dt, tape.exp(t["logAReal"]![n]!)), -1);
      return discrete(tape, rule, [re, tape.mul(dt, t["aImag"]![n]!)], dt);
    });
    const out = inputs.map((value) => {
      const terms = poles.map(({ a, f }, n) => {
        x[n] = tape.cadd(tape.cmul(a, x[n]!), [tape.mul(f[0], value), tape.mul(f[1], value)]);
        return tape.cmul(pair(t["c"]!, n), x[n])[0];
      });
      return tape.add(tape.scale(tape.add(...terms), 2), tape.mul(t["dSkip"]![0]!, value));
    });
    return [...out, ...x.flat()];
  }
  const channelOperands = (strength: keyof typeof strengths): Record<string, ReturnType<typeof cycle>> => ({
    logDt: cycle([1], [-0.7]),
    logAReal: cycle(
      [1, states],
      strengths[strength].map((x) => Math.log(2 * x)),
    ),
    aImag: cycle([1, states], [0.1, 2, 30]),
    c: randomData([1, states, 2], 3),
    dSkip: randomData([1], 4),
    state: randomData([1, 1, states, 2], 5),
  });

  it.each(
    cases.flatMap(([strength, tokens]) =>
      forms.flatMap((form) => rules.map((rule) => [strength, tokens, form, rule] as const)),
    ),
  )("s4d, %s, %i tokens, %s, %s", async (strength, tokens, form, discretization) => {
    await checkExact(device.gpu, {
      operands: { u: randomData([1, tokens, 1], 1), ...channelOperands(strength) },
      gpu: ({ u, state, logDt, logAReal, aImag, c, dSkip }) => {
        const next = s4d(
          u!,
          { logDt: logDt!, logAReal: logAReal!, aImag: aImag!, c: c!, dSkip: dSkip! },
          { state: state!, form, discretization },
        );
        return [next.out, next.state!];
      },
      exact: (tape, t) => channel(tape, discretization, t["u"]!, t),
    });
  });

  it.each(cases.flatMap(([strength, tokens]) => rules.map((rule) => [strength, tokens, rule] as const)))(
    "h3, %s, %i tokens, %s",
    async (strength, tokens, discretization) => {
      const one = (seed: number): ReturnType<typeof randomData> => randomData([1, 1], seed);
      const { state, ...rest } = channelOperands(strength);
      await checkExact(device.gpu, {
        operands: {
          u: randomData([1, tokens, 1], 1),
          ...{ wQ: one(11), wK: one(12), wV: one(13), wO: one(14) },
          shiftKernel: randomData([1, 2], 15),
          shiftSkip: randomData([1], 16),
          ...rest,
          state: state!,
          shift: randomData([1, 1, 1], 17),
        },
        gpu: ({ u, state, shift, ...parameters }) => {
          const zeros = device.gpu.zeros([1]);
          const next = h3(u!, { ...parameters, bQ: zeros, bK: zeros, bV: zeros, bO: zeros } as never, {
            discretization,
            state: { shift: shift!, outer: state! },
          });
          return [next.out, next.state!.shift, next.state!.outer];
        },
        exact: (tape, t) => {
          const keys = t["u"]!.map((u) => tape.mul(u, t["wK"]![0]!));
          const kv = keys.map((key, step) => {
            const before = step === 0 ? t["shift"]![0]! : keys[step - 1]!;
            const k = tape.add(
              tape.mul(t["shiftKernel"]![0]!, key),
              tape.mul(t["shiftKernel"]![1]!, before),
              tape.mul(t["shiftSkip"]![0]!, key),
            );
            return tape.mul(k, tape.mul(t["u"]![step]!, t["wV"]![0]!));
          });
          const y = channel(tape, discretization, kv, t);
          const out = t["u"]!.map((u, step) =>
            tape.mul(t["wO"]![0]!, tape.mul(tape.mul(u, t["wQ"]![0]!), y[step]!)),
          );
          return [...out, keys[tokens - 1]!, ...y.slice(tokens)];
        },
      });
    },
  );
});
