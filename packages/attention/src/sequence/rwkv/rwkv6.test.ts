import { describe, expect, it } from "vitest";
import { concat, slice, transpose, vjp, type Gpu, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, product, useGpu } from "@x/testing";
import { rwkv6, Rwkv6TimeMix, type Rwkv6TimeMixConfig } from "../../index.js";
import { expectConstantMemory, expectSame, parametersOf, random } from "../../test-support.js";
import { rwkv6Reference, rwkv6TimeMixReference } from "./rwkv6.reference.js";
import { expectDecodes } from "../test-support.js";

/** r, k, v, w, u, state; decays from almost none to almost all. */
function caseOf(gpu: Gpu, heads: number, tokens: number, dim: number): Tensor[] {
  const shape = [2, heads, tokens, dim];
  const w = numbers(product(shape), 4).map((x) => -2 + 4 * x);
  return [
    ...[1, 2, 3].map((seed) => random(gpu, shape, seed)),
    gpu.tensor(w, shape),
    random(gpu, [heads, dim], 5),
    random(gpu, [2, heads, dim, dim], 6),
  ];
}
const run = ([r, k, v, w, u, state]: readonly Tensor[]): [Tensor, Tensor] => {
  const { out, state: next } = rwkv6(r!, k!, v!, w!, u!, { state });
  return [out, next];
};

describe("rwkv6", () => {
  const device = useGpu();

  it("is the float64 recurrence, with its gradients, in one chunk and in more", async () => {
    for (const [tokens, heads, dim] of [
      [7, 3, 5],
      [66, 1, 4],
    ] as const) {
      const shape = [1, heads, tokens, dim];
      await checkOp(
        device.gpu,
        (...tensors) => run(tensors),
        (r, k, v, w, u, state) => {
          const y = rwkv6Reference(r, k, v, w, u, state, { batch: 1, heads, tokens, dim });
          return Float64Array.from([...y.out, ...y.state]);
        },
        [
          ...[1, 2, 3, 4].map((seed) => operand(shape, seed)),
          operand([heads, dim], 5),
          operand([1, heads, dim, dim], 6),
        ],
      );
    }
  });

  it.each([
    [1, 3, 5],
    [65, 2, 33],
    [200, 3, 4],
  ])("%i tokens, %i heads of %i: the recurrence, and the same in pieces", async (tokens, heads, dim) => {
    const { gpu } = device;
    const tensors = caseOf(gpu, heads, tokens, dim);
    const host = await Promise.all(tensors.map((t) => t.read()));
    const [r, k, v, w, u, state] = host;
    const expected = rwkv6Reference(r!, k!, v!, w!, u!, state, { batch: 2, heads, tokens, dim });
    const [out, next] = run(tensors);
    await expectSame(out, gpu.tensor(expected.out, out.shape));
    await expectSame(next, gpu.tensor(expected.state, next.shape));
    const wrt = tensors;
    const wanted = [random(gpu, out.shape, 8), random(gpu, next.shape, 9)];
    const whole = vjp(() => run(tensors), wrt).pullback(wanted);
    const cut = Math.floor(tokens / 3);
    if (cut === 0) return;
    const pieces = vjp(() => {
      const part = (start: number, end: number, before: Tensor): [Tensor, Tensor] =>
        run([...tensors.slice(0, 4).map((t) => slice(t, { axis: 2, start, end })), tensors[4]!, before]);
      const [one, middle] = part(0, cut, tensors[5]!);
      const [two, last] = part(cut, tokens, middle);
      return [concat([one, two], 2), last];
    }, wrt);
    await expectSame(pieces.outputs[0]!, out);
    await expectSame(pieces.outputs[1]!, next);
    for (const [i, gradient] of pieces.pullback(wanted).entries())
      await expectSame(gradient, whole[i]!, 3e-5);
  });

  it("takes tokens before heads, never looks ahead, holds its memory", async () => {
    const { gpu } = device;
    const tensors = caseOf(gpu, 3, 9, 4);
    const [out] = run(tensors);
    const swap = (t: Tensor): Tensor => transpose(t, [0, 2, 1, 3]);
    const [r, k, v, w] = tensors.slice(0, 4).map(swap) as [Tensor, Tensor, Tensor, Tensor];
    const other = rwkv6(r, k, v, w, tensors[4]!, { state: tensors[5], layout: "bshd" });
    await expectSame(swap(other.out), out);
    const changed = [...tensors];
    changed[1] = concat([slice(tensors[1]!, { axis: 2, end: 5 }), random(gpu, [2, 3, 4, 4], 9)], 2);
    const before = (t: Tensor): Tensor => slice(t, { axis: 2, end: 5 });
    expect([...(await before(run(changed)[0]).read())]).toEqual([...(await before(out).read())]);
    await expectConstantMemory(gpu, 4, () =>
      vjp(() => run(tensors), [r, ...tensors]).pullback([out, tensors[5]!]),
    );
  });

  it("says what is wrong", () => {
    const { gpu } = device;
    const [r, k, v, w, u, state] = caseOf(gpu, 2, 5, 4) as [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor];
    expect(() => rwkv6(r, k, v, random(gpu, [2, 2, 4, 4], 1), u)).toThrow("rwkv6: w has shape [2, 2, 4, 4]");
    expect(() => rwkv6(r, k, v, w, r)).toThrow("u has shape [2, 2, 5, 4]; it must be [heads = 2, dim = 4]");
    expect(() => rwkv6(r, k, v, w, u, { state: slice(state, { axis: 3, end: 3 }) })).toThrow(
      "state has shape [2, 2, 4, 3]",
    );
    expect(() => rwkv6(r, k, gpu.zeros(v.shape, "f16"), w, u)).toThrow("v is f16; it must be f32");
    expect(() => rwkv6(r, k, v, w, u, { form: "parallel" } as never)).toThrow('unknown key "form"');
  });
});

describe("Rwkv6TimeMix", () => {
  const device = useGpu();
  const config: Rwkv6TimeMixConfig = { dim: 6, numHeads: 2, mixRank: 2, decayRank: 3, normEps: 0.01 };

  it("is the float64 layer, with its gradients, through both states", async () => {
    const plan = Rwkv6TimeMix.plan(config);
    const names = Object.keys(plan);
    await checkOp(
      device.gpu,
      (x, state, prev, ...weights) => {
        const layer = new Rwkv6TimeMix(
          config,
          Object.fromEntries(names.map((name, i) => [name, weights[i]!])),
        );
        const r = layer.outputs(x, { state, prev });
        return [r.out, r.state, r.prev];
      },
      (x, state, prev, ...weights) =>
        rwkv6TimeMixReference(
          x,
          state,
          prev,
          Object.fromEntries(names.map((name, i) => [name, weights[i]!])),
          { batch: 2, tokens: 4, dim: 6, numHeads: 2, eps: 0.01, rank: 2 },
        ),
      [
        operand([2, 4, 6], 1),
        operand([2, 2, 3, 3], 2),
        operand([2, 6], 3),
        ...Object.values(plan).map(({ shape }, i) => operand(shape, 4 + i)),
      ],
    );
  });

  it("decodes what it computes at once", async () => {
    const { gpu } = device;
    const layer = new Rwkv6TimeMix(config, parametersOf(gpu, Rwkv6TimeMix.plan(config)));
    await expectDecodes(gpu, layer, 6, 4 * 2 * (2 * 9 + 6));
  });

  it("begins with numbers that train, and says what is wrong", async () => {
    const { gpu } = device;
    const layer = Rwkv6TimeMix.init(gpu, { dim: 12, numHeads: 3 }, { seed: 1 });
    const parameters = layer.parameters();
    const x = random(gpu, [1, 5, 12], 1);
    const grads = vjp(() => [layer.forward(x)], Object.values(parameters)).pullback([x]);
    for (const [i, name] of Object.keys(parameters).entries())
      expect(
        [...(await grads[i]!.read())].some((g) => g !== 0),
        name,
      ).toBe(true);
    const plan = (change: object) => () => Rwkv6TimeMix.plan({ ...config, ...change });
    expect(plan({ numHeads: 4 })).toThrow("Rwkv6TimeMix: dim is 6, numHeads 4; the first must be a multiple");
    expect(plan({ mixRank: 0 })).toThrow("mixRank is 0");
    expect(plan({ loraRank: 2 })).toThrow('unknown key "loraRank"');
    expect(() => layer.forward(random(gpu, [1, 5, 11], 1))).toThrow("x has shape [1, 5, 11]");
    expect(() => layer.outputs(x, { prev: random(gpu, [2, 12], 1) })).toThrow("prev has shape [2, 12]");
  });
});
