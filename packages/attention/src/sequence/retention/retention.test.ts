import { describe, expect, it } from "vitest";
import { concat, mul, slice, vjp, type Gpu, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, product, useGpu } from "@x/testing";
import { gatedRetention, retention, type GatedRetentionOptions, type SequenceForm } from "../../index.js";
import { expectSame, random } from "../../test-support.js";
import { decayedReference, type DecayedShape } from "../decay/naive.reference.js";
import { logGammas } from "./retention.js";

const FORMS: readonly SequenceForm[] = [
  { form: "parallel" },
  { form: "recurrent" },
  { form: "chunkwise", chunkSize: 4 },
  { form: "chunkwise", chunkSize: 64 },
];
const name = ({ form, chunkSize }: SequenceForm): string => `${form}${chunkSize ? ` ${chunkSize}` : ""}`;

/** Log decays from about 0 to -`strength`. */
const decays = (n: number, seed: number, strength: number): Float64Array =>
  numbers(n, seed).map((x) => (-strength * (x + 1)) / 2);

interface Case {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly logDecay: Tensor;
  readonly state: Tensor;
}

function caseOf(gpu: Gpu, heads: number, tokens: number, dim: number, valueDim: number, strength = 1): Case {
  const shape = [2, heads, tokens];
  return {
    q: random(gpu, [...shape, dim], 1),
    k: random(gpu, [...shape, dim], 2),
    v: random(gpu, [...shape, valueDim], 3),
    logDecay: gpu.tensor(decays(product(shape), 4, strength), shape),
    state: random(gpu, [2, heads, dim, valueDim], 5),
  };
}

async function referenceOf(one: Case): Promise<{ out: Float64Array; state: Float64Array }> {
  const [batch, heads, tokens, dim] = one.q.shape as [number, number, number, number];
  const decay = await one.logDecay.read();
  return decayedReference(
    await one.q.read(),
    await one.k.read(),
    await one.v.read(),
    (b, h, t) => decay[(b * heads + h) * tokens + t]!,
    await one.state.read(),
    { batch, heads, tokens, dim, valueDim: one.v.shape[3]!, scale: dim ** -0.5 },
  );
}

const run = ({ q, k, v, logDecay, state }: Case, options: GatedRetentionOptions): [Tensor, Tensor] => {
  const { out, state: next } = gatedRetention(q, k, v, logDecay, { state, ...options });
  return [out, next];
};

type Sizes = [tokens: number, heads: number, dim: number, valueDim: number];
const DEVICES: [string, { subgroups?: false }, Sizes[]][] = [
  [
    "with the adapter's subgroups",
    {},
    [
      [1, 3, 5, 33],
      [7, 1, 4, 4],
      [65, 3, 33, 5],
      [100, 2, 8, 36],
      [100, 1, 140, 7],
    ],
  ],
  ["without subgroups", { subgroups: false }, [[65, 3, 5, 7]]],
];

describe.each(DEVICES)("gated retention %s", (_, features, sizes) => {
  const device = useGpu({ features });

  it.each(FORMS)("is the float64 recurrence, with its gradients, in $form $chunkSize", async (form) => {
    const shape: DecayedShape = { batch: 1, heads: 3, tokens: 11, dim: 5, valueDim: 6, scale: 0.4 };
    await checkOp(
      device.gpu,
      (q, k, v, logDecay, state) => {
        const { out, state: next } = gatedRetention(q, k, v, logDecay, { ...form, state, scale: 0.4 });
        return [out, next];
      },
      (q, k, v, logDecay, state) => {
        const r = decayedReference(q, k, v, (b, h, t) => logDecay[(b * 3 + h) * 11 + t]!, state, shape);
        return Float64Array.from([...r.out, ...r.state]);
      },
      [
        operand([1, 3, 11, 5], 1),
        operand([1, 3, 11, 5], 2),
        operand([1, 3, 11, 6], 3),
        { shape: [1, 3, 11], data: decays(33, 4, 2) },
        operand([1, 3, 5, 6], 5),
      ],
    );
  });

  it.each(sizes)(
    "%i tokens, %i heads of %i by %i: all forms and their gradients agree",
    async (tokens, heads, dim, valueDim) => {
      const { gpu } = device;
      const one = caseOf(gpu, heads, tokens, dim, valueDim);
      const reference = await referenceOf(one);
      const cotangents = [random(gpu, one.v.shape, 8), random(gpu, one.state.shape, 9)];
      const results = FORMS.map((form) => {
        const { outputs, pullback } = vjp(() => run(one, form), Object.values(one) as Tensor[]);
        return { form: name(form), outputs, grads: pullback(cotangents) };
      });
      for (const { form, outputs, grads } of results) {
        await expectSame(outputs[0]!, gpu.tensor(reference.out, one.v.shape), 1e-5);
        await expectSame(outputs[1]!, gpu.tensor(reference.state, one.state.shape), 1e-5);
        if (form !== "chunkwise 4")
          for (const [i, grad] of grads.entries()) await expectSame(grad, results[2]!.grads[i]!, 3e-5);
      }
    },
  );

  it("neither overflows nor cancels where decays are strong, or nothing decays", async () => {
    const { gpu } = device;
    for (const strength of [0, 40]) {
      const one = caseOf(gpu, 2, 70, 4, 4, strength);
      const r = await referenceOf(one);
      for (const form of FORMS) {
        const [out, next] = run(one, form);
        await expectSame(out, gpu.tensor(r.out, one.v.shape), 1e-5);
        await expectSame(next, gpu.tensor(r.state, one.state.shape), 1e-5);
      }
    }
  });
});

describe("gated retention", () => {
  const device = useGpu();

  it("goes on from its state in pieces, and never looks ahead", async () => {
    const { gpu } = device;
    const one = caseOf(gpu, 3, 21, 6, 8);
    const [whole, last] = run(one, { form: "chunkwise", chunkSize: 8 });
    for (const form of FORMS) {
      let state = one.state;
      const outs: Tensor[] = [];
      for (const [start, end] of [
        [0, 9],
        [9, 10],
        [10, 21],
      ] as const) {
        const rows = (x: Tensor): Tensor => slice(x, { axis: 2, start, end });
        const { q, k, v, logDecay } = one;
        const piece = { q: rows(q), k: rows(k), v: rows(v), logDecay: rows(logDecay), state };
        const [out, next] = run(piece, form);
        outs.push(out);
        state = next;
      }
      await expectSame(concat(outs, 2), whole);
      await expectSame(state, last);
      const changed = {
        ...one,
        k: concat([slice(one.k, { axis: 2, end: 10 }), random(gpu, [2, 3, 11, 6], 12)], 2),
      };
      const before = (x: Tensor): Tensor => slice(x, { axis: 2, end: 10 });
      const [a, b] = [await before(run(one, form)[0]).read(), await before(run(changed, form)[0]).read()];
      expect([...b]).toEqual([...a]);
    }
  });

  it("holds its memory over steps", () => {
    const { gpu } = device;
    const one = caseOf(gpu, 2, 70, 8, 8);
    let bytes = 0;
    for (let n = 0; n < 4; n++) {
      gpu.scope(() => {
        const step = vjp(() => run(one, { form: "chunkwise", chunkSize: 16 }), [one.q, one.logDecay]);
        step.pullback([one.v, one.state]);
      });
      if (n === 1) bytes = gpu.memory().liveBytes;
    }
    expect(gpu.memory().liveBytes).toBe(bytes);
  });

  it("takes three kernels for a sequence in chunks, one for a token", async () => {
    const { gpu } = device;
    const one = caseOf(gpu, 2, 70, 8, 8);
    const count = async (form: SequenceForm): Promise<number> => {
      await gpu.sync();
      const before = gpu.counters().dispatches;
      run(one, form);
      await gpu.sync();
      return gpu.counters().dispatches - before;
    };
    expect(await count({ form: "chunkwise", chunkSize: 16 })).toBe(3);
    expect(await count({ form: "recurrent" })).toBe(1);
  });

  it("says what is wrong", () => {
    const { gpu } = device;
    const { q, k, v, logDecay, state } = caseOf(gpu, 2, 6, 4, 3);
    expect(() => gatedRetention(q, k, v, logDecay, { form: "chunkwise" })).toThrow(
      "gatedRetention: chunkSize is undefined; it must be an integer at least 1",
    );
    expect(() => gatedRetention(q, k, v, logDecay, { chunkSize: 4 })).toThrow(
      'chunkSize is 4, form "parallel"; only form "chunkwise" has a chunkSize',
    );
    expect(() => gatedRetention(q, k, v, logDecay, { form: "chunk" as never })).toThrow(
      'form is "chunk"; it must be one of parallel, recurrent, chunkwise',
    );
    expect(() => gatedRetention(q, k, v, random(gpu, [2, 2, 5], 1))).toThrow("logDecay has shape [2, 2, 5]");
    expect(() => gatedRetention(q, slice(k, { axis: 3, end: 3 }), v, logDecay)).toThrow(
      "k has shape [2, 2, 6, 3]",
    );
    expect(() => gatedRetention(q, k, v, logDecay, { state: slice(state, { axis: 2, end: 2 }) })).toThrow(
      "state has shape [2, 2, 2, 3]; it must be [batch = 2, heads = 2, dim = 4, valueDim = 3]",
    );
    expect(() => gatedRetention(q, k, gpu.zeros(v.shape, "i32"), logDecay)).toThrow(
      "v is i32; it must be f32",
    );
    expect(() => gatedRetention(q, k, v, logDecay, { scale: NaN })).toThrow("scale is NaN");
    const none = gpu.zeros([2, 2, 0, 4]);
    expect(() => gatedRetention(none, none, gpu.zeros([2, 2, 0, 3]), gpu.zeros([2, 2, 0]))).toThrow(
      "q has shape [2, 2, 0, 4]; every extent must be at least 1",
    );
  });
});

describe("retention", () => {
  const device = useGpu();

  it("is the recurrence with each rule of decay, row factors continued from an offset", async () => {
    const shape: DecayedShape = { batch: 1, heads: 3, tokens: 9, dim: 4, valueDim: 5, scale: 0.5 };
    for (const [decay, gammas] of [
      ["retnet", [1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128]],
      ["logLinspace", [1 - 1 / 32, 1 - 1 / Math.sqrt(32 * 512), 1 - 1 / 512]],
      [
        [0.9, 0.05, 1],
        [0.9, 0.05, 1],
      ],
    ] as const)
      await checkOp(
        device.gpu,
        (q, k, v, state) => {
          const { out, state: next } = retention(q, k, v, {
            form: "chunkwise",
            chunkSize: 4,
            decay,
            decayNorm: true,
            offset: 3,
            state,
          });
          return [out, next];
        },
        (q, k, v, state) => {
          const r = decayedReference(q, k, v, (_b, h) => Math.log(gammas[h]!), state, shape);
          const out = r.out.map((x, i) => {
            const gamma = gammas[Math.floor(i / 45)]!;
            let sum = 0;
            for (let j = 0; j <= 3 + (Math.floor(i / 5) % 9); j++) sum += gamma ** j;
            return x / Math.sqrt(sum);
          });
          return Float64Array.from([...out, ...r.state]);
        },
        [
          operand([1, 3, 9, 4], 1),
          operand([1, 3, 9, 4], 2),
          operand([1, 3, 9, 5], 3),
          operand([1, 3, 4, 5], 4),
        ],
      );
  });

  it("divides by the sum of weights, of which no gradient is taken", async () => {
    const { gpu } = device;
    const [H, T, D] = [2, 9, 4];
    const [q, k, v] = [1, 2, 3].map((seed) => random(gpu, [1, H, T, D], seed)) as [Tensor, Tensor, Tensor];
    const [a, b] = [await q.read(), await k.read()];
    const logs = logGammas("retnet", H);
    for (const denominator of ["sumAbs", "absSum"] as const) {
      const rows = Float64Array.from({ length: H * T }, (_, i) => {
        const [h, t] = [Math.floor(i / T), i % T];
        let sum = 0;
        for (let u = 0; u <= t; u++) {
          let w = 0;
          for (let d = 0; d < D; d++) w += 8 * a[i * D + d]! * b[(h * T + u) * D + d]!;
          w *=
            Math.exp((t - u) * logs[h]!) * Math.sqrt(Math.expm1(logs[h]!) / Math.expm1((t + 1) * logs[h]!));
          sum += denominator === "sumAbs" ? Math.abs(w) : w;
        }
        return 1 / Math.min(Math.max(Math.abs(sum), 1), 50000);
      });
      const factor = gpu.tensor(rows, [1, H, T, 1]);
      const options = { scale: 8, decayNorm: true };
      const one = vjp(() => [retention(q, k, v, { ...options, denominator }).out], [q, k, v]);
      const two = vjp(() => [mul(retention(q, k, v, options).out, factor)], [q, k, v]);
      await expectSame(one.outputs[0]!, two.outputs[0]!);
      const grads = [one, two].map((r) => r.pullback([random(gpu, v.shape, 7)]));
      for (const i of [0, 1, 2]) await expectSame(grads[0]![i]!, grads[1]![i]!, 2e-5);
    }
  });

  it("says what is wrong", () => {
    const { gpu } = device;
    const x = random(gpu, [1, 2, 5, 4], 1);
    expect(() => retention(x, x, x, { decay: [0.5] })).toThrow(
      "retention: decay has 1 numbers; it must have one for each of 2 heads",
    );
    expect(() => retention(x, x, x, { decay: [0.5, 1.5] })).toThrow("decay[1] is 1.5");
    expect(() => retention(x, x, x, { decay: "retNet" as never })).toThrow('did you mean "retnet"');
    expect(() => retention(x, x, x, { denominator: "sumAbs", form: "recurrent" })).toThrow(
      'denominator is "sumAbs", form "recurrent"; it needs form "parallel"',
    );
    expect(() => retention(x, x, x, { denominator: "absSum", state: random(gpu, [1, 2, 4, 4], 2) })).toThrow(
      'denominator is "absSum" and a state is given; it needs a whole sequence',
    );
    expect(() => retention(x, x, x, { offset: -1 })).toThrow("offset is -1");
    expect(() => retention(x, x, x, { gamma: 1 } as never)).toThrow('unknown key "gamma"');
  });
});
