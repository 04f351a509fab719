import { describe, expect, it } from "vitest";
import { transpose, vjp, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, product, useGpu } from "@x/testing";
import { ssd, type SsdOptions } from "../../index.js";
import { expectConstantMemory, expectSame, random } from "../../test-support.js";
import { decayedReference } from "../decay/naive.reference.js";

const FORMS: SsdOptions[] = [
  {},
  { form: "parallel" },
  { form: "recurrent" },
  { form: "chunkwise", chunkSize: 3 },
];
const [B, H, G, T, P, N] = [1, 4, 2, 7, 3, 5];
const softplus = (x: number): number => Math.log1p(Math.exp(x));

const positive = (shape: number[], seed: number): { shape: number[]; data: Float64Array } => ({
  shape,
  data: numbers(product(shape), seed).map((x) => 0.6 + 0.5 * x),
});
const negative = (shape: number[], seed: number): { shape: number[]; data: Float64Array } => ({
  shape,
  data: numbers(product(shape), seed).map((x) => -1 - 0.9 * x),
});
const operands = [
  operand([B, H, T, P], 1),
  positive([B, H, T], 2),
  operand([B, G, T, N], 3),
  operand([B, G, T, N], 4),
  negative([H], 5),
  operand([H], 6),
  operand([H], 7),
  operand([B, H, P, N], 8),
];

/** x, dt, b, c, a, dSkip, dtBias, state: y, then the state, by the recurrence. */
function reference(soft: boolean, [low, high]: readonly [number, number]) {
  return (...[x, dt, b, c, a, d, bias, state]: Float64Array[]): Float64Array => {
    const step = (h: number, t: number): number => {
      const raw = dt![h * T + t]! + bias![h]!;
      return Math.min(Math.max(soft ? softplus(raw) : raw, low), high);
    };
    const turned = (s: Float64Array, rows: number, columns: number): Float64Array =>
      s.map((_, i) => {
        const within = i % (rows * columns);
        return s[i - within + (within % rows) * columns + Math.floor(within / rows)]!;
      });
    const entering = x!.map((value, i) => value * step(Math.floor(i / P / T), Math.floor(i / P) % T));
    const decay = (_b: number, h: number, t: number): number => a![h]! * step(h, t);
    const sizes = { batch: B, heads: H, groups: G, tokens: T, dim: N, valueDim: P, scale: 1 };
    const r = decayedReference(c!, b!, entering, decay, turned(state!, P, N), sizes);
    const y = r.out.map((value, i) => value + d![Math.floor(i / P / T)]! * x![i]!);
    return Float64Array.from([...y, ...turned(r.state, N, P)]);
  };
}

describe("ssd", () => {
  const device = useGpu();
  const run = (tensors: Tensor[], options: SsdOptions): [Tensor, Tensor] => {
    const [x, dt, b, c, a, dSkip, dtBias, state] = tensors;
    const { out, state: next } = ssd(
      x!,
      dt!,
      b!,
      c!,
      { a: a!, dSkip: dSkip!, dtBias },
      { ...options, state },
    );
    return [out, next];
  };

  it.each(FORMS)("is the float64 recurrence with groups, and its gradients: %o", async (form) => {
    const { gpu } = device;
    for (const options of [{ dtSoftplus: true }, { dtLimit: [0.3, 1.1] as const }])
      await checkOp(
        gpu,
        (...tensors) => run(tensors, { ...form, ...options }),
        reference("dtSoftplus" in options, options.dtLimit ?? [-Infinity, Infinity]),
        operands,
      );
  });

  it("takes tokens before heads, values and gradients", async () => {
    const { gpu } = device;
    const tensors = operands.map(({ data, shape }) => gpu.tensor(data, shape));
    const swap = (t: Tensor): Tensor => transpose(t, t.rank === 4 ? [0, 2, 1, 3] : [0, 2, 1]);
    const wanted = [random(gpu, [B, H, T, P], 9), random(gpu, [B, H, P, N], 10)];
    for (const form of FORMS) {
      const one = vjp(() => run(tensors, form), tensors);
      const two = vjp(() => {
        const turned = tensors.map((t, i) => (i < 4 ? swap(t) : t));
        const [out, state] = run(turned, { ...form, layout: "bshd" });
        return [swap(out), state];
      }, tensors);
      for (const [i, output] of one.outputs.entries()) await expectSame(two.outputs[i]!, output);
      const [a, b] = [one.pullback(wanted), two.pullback(wanted)];
      for (const [i, gradient] of a.entries()) await expectSame(b[i]!, gradient);
    }
  });

  it.each([
    [1, 33, 5],
    [65, 33, 5],
    [100, 7, 9],
  ])("%i tokens, heads of %i, a state of %i: forms agree", async (tokens, headDim, size) => {
    const { gpu } = device;
    const shapes = [
      [2, 3, tokens, headDim],
      [2, 3, tokens],
      [2, 1, tokens, size],
      [2, 1, tokens, size],
    ];
    const own = [
      ...shapes.map((shape, i) => (i === 1 ? random(gpu, shape, 1) : random(gpu, shape, i))),
      gpu.tensor(negative([3], 5).data, [3]),
      random(gpu, [3], 6),
      random(gpu, [3], 7),
      random(gpu, [2, 3, headDim, size], 8),
    ];
    const results = FORMS.map((form) => {
      const { outputs, pullback } = vjp(() => run(own, { ...form, dtSoftplus: true }), own);
      return [...outputs, ...pullback([random(gpu, shapes[0]!, 9), random(gpu, [2, 3, headDim, size], 10)])];
    });
    for (const result of results.slice(1))
      for (const [i, tensor] of result.entries()) await expectSame(tensor, results[0]![i]!, 3e-5);
  });

  it("decodes in constant memory", async () => {
    const { gpu } = device;
    const tensors = operands.map(({ data, shape }) => gpu.tensor(data, shape));
    await expectConstantMemory(gpu, 4, () => run(tensors, { form: "recurrent" }));
  });

  it("says what is wrong", () => {
    const { gpu } = device;
    const [x, dt, b, , a, d] = operands.map(({ data, shape }): Tensor => gpu.tensor(data, shape));
    const call =
      (options: object, change: Partial<Record<"b" | "dt" | "a", Tensor>> = {}) =>
      () =>
        ssd(x!, change.dt ?? dt!, change.b ?? b!, change.b ?? b!, { a: change.a ?? a!, dSkip: d! }, options);
    expect(call({}, { b: random(gpu, [B, 3, T, N], 1) })).toThrow(
      "ssd: x has 4 heads, b 3 groups; the first must be a multiple of the second",
    );
    expect(call({}, { a: random(gpu, [3], 1) })).toThrow("a has shape [3]; it must be [heads = 4]");
    expect(call({}, { dt: gpu.zeros([B, H, T], "i32") })).toThrow("dt is i32; it must be f32");
    expect(call({ dtLimit: [1, 0] })).toThrow("dtLimit is [1, 0]");
    expect(call({ form: "parallel", chunkSize: 4 })).toThrow('only form "chunkwise" has a chunkSize');
    expect(call({ layout: "bthd" })).toThrow('layout is "bthd"');
    expect(call({ state: random(gpu, [B, H, N, P], 1) })).toThrow("state has shape [1, 4, 5, 3]");
    expect(call({ chunks: 4 })).toThrow('unknown key "chunks"');
  });
});
