import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, ShapeError, vjp, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, relativeError, useGpu, type Operand } from "@x/testing";
import { capacitySlots } from "../router/expert_capacity.reference.js";
import {
  expertChoice,
  gshardMoe,
  mixExperts,
  mixtralMoe,
  switchMoe,
  type Experts,
  type GShardMoeOptions,
} from "../index.js";
import { addRow, gatedExpert, gelu, plainExpert, row, softmax, sum, times, topk } from "../moe.reference.js";

const [B, T, D, E, F] = [2, 5, 4, 3, 6];
const N = B * T;
const operands = (...more: Operand[]): Operand[] => [
  operand([B, T, D], 1),
  operand([E, D], 2),
  operand([E, F, D], 3),
  operand([E, D, F], 4),
  ...more,
];
const plain = (w1: Tensor, w2: Tensor): Experts => ({ kind: "ffn", w1, w2, activation: "gelu" });
const expert = (x: number[], e: number, w1: Float64Array, w2: Float64Array): number[] =>
  plainExpert(x, e, w1, w2, F, gelu);

for (const [label, features] of [
  ["with the adapter's subgroups", {}],
  ["without subgroups", { subgroups: false }],
] as const)
  describe(`layers with experts ${label}`, () => {
    const device = useGpu({ features });

    it.each(["batch", "sequence"] as const)(
      "switchMoe by %s: float64 values and gradients",
      async (groupBy) => {
        const groups = groupBy === "batch" ? 1 : B;
        await checkOp(
          device.gpu,
          (x, w, w1, w2) => {
            const r = switchMoe(x, w, plain(w1, w2), { capacityFactor: 0.8, groupBy, alpha: 0.1 });
            return [r.out, r.weights];
          },
          (x, w, w1, w2) => {
            const p = Array.from({ length: N }, (_, t) => softmax(times(w, row(x, t, D), E)));
            const chosen = p.map((v) => topk(v, 1)[0]!);
            const best = chosen.map((e, t) => p[t]![e]!);
            const slots = capacitySlots(chosen, best, {
              groups,
              tokens: N / groups,
              k: 1,
              experts: E,
              capacity: Math.ceil((0.8 * N) / groups / E),
              priority: "choiceFirst",
            });
            const out = new Float64Array(N * D);
            const kept = best.map((v, t) => (slots[t]! < 0 ? 0 : v));
            kept.forEach((v, t) => {
              if (v > 0) addRow(out, t, expert(row(x, t, D), chosen[t]!, w1, w2), v);
            });
            return [...out, ...kept];
          },
          operands(),
          { h: 1e-5 },
        );
      },
    );

    it.each<GShardMoeOptions>([
      { capacityFactor: 0.7 },
      { capacity: 9, secondPolicy: "none" },
      { capacityFactor: 1.2, secondPolicy: "threshold", secondThreshold: 0.45 },
      { capacityFactor: 2, countChoices: false, secondPolicy: "random", groupBy: "batch" },
    ])("gshardMoe %j: float64 values and gradients", async (options) => {
      const { gpu } = device;
      const { secondPolicy = "all", secondThreshold = 0.2, countChoices = true, groupBy } = options;
      const uniform = numbers(N, 9).map((v) => Math.fround((v + 1) / 2));
      const groups = groupBy === "batch" ? 1 : B;
      await checkOp(
        gpu,
        (x, w, w1, w2) => {
          const given = secondPolicy === "random" ? { uniform: gpu.tensor(uniform, [B, T]) } : {};
          const r = gshardMoe(x, w, plain(w1, w2), { ...options, ...given });
          return [r.out, r.weights];
        },
        (x, w, w1, w2) => {
          const [indices, weights]: [number[], number[]] = [[], []];
          for (let t = 0; t < N; t++) {
            const p = softmax(times(w, row(x, t, D), E));
            const best = topk(p, 2);
            const total = sum(best.map((e) => p[e]!)) + 1e-9;
            const shares = best.map((e) => p[e]! / total);
            const tried =
              secondPolicy === "all" ||
              (secondPolicy === "threshold" && shares[1]! > secondThreshold) ||
              (secondPolicy === "random" && uniform[t]! < shares[1]! / secondThreshold);
            indices.push(best[0]!, tried ? best[1]! : -1);
            weights.push(...shares);
          }
          const S = N / groups;
          const capacity =
            options.capacity ?? Math.ceil((options.capacityFactor! * S * (countChoices ? 2 : 1)) / E);
          const slots = capacitySlots(indices, weights, {
            groups,
            tokens: S,
            k: 2,
            experts: E,
            capacity,
            priority: "choiceFirst",
          });
          const out = new Float64Array(N * D);
          const kept = weights.map((v, c) => (slots[c]! < 0 ? 0 : v));
          kept.forEach((v, c) => {
            const t = Math.floor(c / 2);
            if (slots[c]! >= 0) addRow(out, t, expert(row(x, t, D), indices[c]!, w1, w2), v);
          });
          return [...out, ...kept];
        },
        operands(),
        { h: 1e-5 },
      );
    });

    it.each(["batch", "sequence"] as const)(
      "expertChoice by %s: c tokens each, gradients",
      async (groupBy) => {
        const groups = groupBy === "batch" ? 1 : B;
        const S = N / groups;
        const c = Math.min(S, Math.ceil((1.5 * S) / E));
        await checkOp(
          device.gpu,
          (x, w, w1, w2) => {
            const r = expertChoice(x, w, plain(w1, w2), { capacityFactor: 1.5, groupBy });
            expect(r.tokenIndices.shape).toEqual([groups, E, c]);
            return [r.out, r.gates];
          },
          (x, w, w1, w2) => {
            const p = Array.from({ length: N }, (_, t) => softmax(times(w, row(x, t, D), E)));
            const out = new Float64Array(N * D);
            const gates: number[] = [];
            for (let g = 0; g < groups; g++)
              for (let e = 0; e < E; e++)
                for (const at of topk(
                  Array.from({ length: S }, (_, t) => p[g * S + t]![e]!),
                  c,
                )) {
                  const t = g * S + at;
                  gates.push(p[t]![e]!);
                  addRow(out, t, expert(row(x, t, D), e, w1, w2), p[t]![e]!);
                }
            return [...out, ...gates];
          },
          operands(),
          { h: 1e-5 },
        );
      },
    );

    it("mixtralMoe: float64 values and gradients through router and gated experts", async () => {
      await checkOp(
        device.gpu,
        (...[x, w, wGate, wDown, wUp]) =>
          mixtralMoe(
            x!,
            w!,
            { kind: "glu", wGate: wGate!, wUp: wUp!, wDown: wDown! },
            { topK: 2, renormalize: true },
          ).out,
        (...[x, w, wGate, wDown, wUp]) => {
          const out = new Float64Array(N * D);
          for (let t = 0; t < N; t++) {
            const token = row(x!, t, D);
            const p = softmax(times(w!, token, E));
            const best = topk(p, 2);
            const total = sum(best.map((e) => p[e]!));
            for (const e of best)
              addRow(out, t, gatedExpert(token, e, wGate!, wUp!, wDown!, F), p[e]! / total);
          }
          return out;
        },
        operands(operand([E, F, D], 5)),
        { h: 1e-5 },
      );
    });

    it("a few tokens by the direct path equal the sorted one, for every kind of expert", async () => {
      const { gpu } = device;
      for (const [dim, hidden] of [
        [4, 8],
        [5, 7],
        [64, 65],
      ] as const)
        for (const kind of ["glu", "clamped", "ffn"] as const) {
          const tensor = (shape: number[], seed: number): Tensor =>
            gpu.tensor(operand(shape, seed).data, shape);
          const [into, outOf] = [
            [E, hidden, dim],
            [E, dim, hidden],
          ];
          const experts: Experts =
            kind !== "ffn"
              ? {
                  kind: "glu",
                  wGate: tensor(into, 1),
                  wUp: tensor(into, 2),
                  wDown: tensor(outOf, 3),
                  ...(kind === "glu"
                    ? { gluKind: "geglu" }
                    : {
                        ...{ beta: 1.702, limit: 0.5, upOffset: 1 },
                        bGate: tensor([E, hidden], 4),
                        bUp: tensor([E, hidden], 8),
                        bDown: tensor([E, dim], 5),
                      }),
                }
              : {
                  kind,
                  w1: tensor(into, 1),
                  w2: tensor(outOf, 3),
                  b1: tensor([E, hidden], 4),
                  b2: tensor([E, dim], 5),
                  activation: "swish",
                };
          const x = tensor([5, dim], 6);
          const indices = gpu.tensor([0, 1, 2, -1, 2, 0, -1, -1, 1, 0], [5, 2], "i32");
          const weights = tensor([5, 2], 7);
          const direct = gpu.scope(() => mixExperts(x, experts, indices, weights));
          const sorted = vjp(() => [mixExperts(x, experts, indices, weights)], [x]);
          expect(relativeError(await direct.read(), await sorted.outputs[0]!.read())).toBeLessThan(1e-5);
          sorted.dispose();
        }
    });
  });

describe("layers with experts", () => {
  const device = useGpu();
  const random = (shape: number[], seed: number): Tensor =>
    device.gpu.tensor(operand(shape, seed).data, shape);

  it("permuting the experts changes nothing", async () => {
    const { gpu } = device;
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          shape: fc.tuple(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 40 })),
          dim: fc.integer({ min: 1, max: 9 }),
          hidden: fc.integer({ min: 1, max: 9 }),
          keys: fc.array(fc.nat(), { minLength: 2, maxLength: 7 }),
          factor: fc.constantFrom(0.5, 0.8, 1, 2),
        }),
        async ({ shape, dim, hidden, keys, factor }) => {
          const count = keys.length;
          const order = keys.map((_, i) => i).sort((i, j) => keys[i]! - keys[j]!);
          const permute = (dims: number[], seed: number): Tensor => {
            const { data } = operand(dims, seed);
            const size = data.length / count;
            return gpu.tensor(
              order.flatMap((e) => Array.from(data.slice(e * size, (e + 1) * size))),
              dims,
            );
          };
          const results = gpu.scope(() => {
            const x = random([...shape, dim], 1);
            const run = (make: (dims: number[], seed: number) => Tensor): Tensor[] => {
              const w = make([count, dim], 2);
              const experts = plain(make([count, hidden, dim], 3), make([count, dim, hidden], 4));
              return [
                switchMoe(x, w, experts, { capacityFactor: factor }).out,
                gshardMoe(x, w, experts, { capacityFactor: factor }).out,
                mixtralMoe(x, w, experts, { topK: 2 }).out,
                expertChoice(x, w, experts, { capacityFactor: factor }).out,
              ];
            };
            return [...run(random), ...run(permute)];
          });
          for (let i = 0; i < 4; i++)
            expect(relativeError(await results[i + 4]!.read(), await results[i]!.read())).toBeLessThan(1e-5);
          for (const t of results) t.dispose();
        },
      ),
      { numRuns: 12, seed: 1 },
    );
  });

  it("a large capacity equals no capacity", async () => {
    const { gpu } = device;
    const [x, w] = [random([2, 40, D], 1), random([E, D], 2)];
    const experts = plain(random([E, F, D], 3), random([E, D, F], 4));
    const capped = gpu.scope(() => switchMoe(x, w, experts, { capacity: 40 }).out);
    const free = gpu.scope(() => mixtralMoe(x, w, experts, { topK: 1 }).out);
    expect(relativeError(await capped.read(), await free.read())).toBeLessThan(1e-6);
    const capped2 = gpu.scope(() => gshardMoe(x, w, experts, { capacityFactor: 3 }).out);
    const free2 = gpu.scope(
      () => mixtralMoe(x, w, experts, { topK: 2, renormalize: true, renormEps: 1e-9 }).out,
    );
    expect(relativeError(await capped2.read(), await free2.read())).toBeLessThan(1e-6);
  });

  it("the same seed gives the same bits, forward and backward", async () => {
    const [x, w] = [random([2, 70, D], 1), random([E, D], 2)];
    const [w1, w2] = [random([E, F, D], 3), random([E, D, F], 4)];
    const run = async (): Promise<number[]> => {
      const r = vjp(() => [gshardMoe(x, w, plain(w1, w2), { capacityFactor: 0.8 }).out], [x, w, w1, w2]);
      const g = r.pullback([random([2, 70, D], 8)]);
      const all: number[] = [];
      for (const t of [...r.outputs, ...g]) all.push(...(await t.read()));
      return all;
    };
    expect(await run()).toEqual(await run());
  });

  it("experts that take no token leave zero output and gradient", async () => {
    const { gpu } = device;
    const x = random([1, 6, D], 1);
    const experts = { w1: random([E, F, D], 3), w2: random([E, D, F], 4) };
    const r = vjp(
      () => [switchMoe(x, gpu.zeros([E, D]), { kind: "ffn", ...experts }, { capacity: 2 }).out],
      [experts.w1, experts.w2],
    );
    // All tie: expert 0 takes the first two tokens, the others are dropped.
    expect(Array.from((await r.outputs[0]!.read()).slice(2 * D)).every((v) => v === 0)).toBe(true);
    const grads = r.pullback([gpu.full([1, 6, D], 1)]);
    for (const g of grads) expect(Array.from((await g.read()).slice(F * D)).every((v) => v === 0)).toBe(true);
    const none = gpu.scope(() =>
      expertChoice(x, gpu.zeros([E, D]), { kind: "ffn", ...experts }, { capacity: 0 }),
    );
    expect(Array.from(await none.out.read()).every((v) => v === 0)).toBe(true);
    expect(none.gates.shape).toEqual([1, E, 0]);
  });

  it("refuse what does not fit", () => {
    const { gpu } = device;
    const [x, w] = [gpu.zeros([1, 3, D]), gpu.zeros([E, D])];
    const experts: Experts = { kind: "ffn", w1: gpu.zeros([E, F, D]), w2: gpu.zeros([E, D, F]) };
    expect(() => switchMoe(x, w, experts, {})).toThrow(/neither capacityFactor nor capacity/);
    expect(() => switchMoe(x, gpu.zeros([E + 1, D]), experts, { capacity: 1 })).toThrow(
      /wRouter has shape \[4, 4\]/,
    );
    expect(() => switchMoe(x, w, { ...experts, b1: gpu.zeros([E, D]) }, { capacity: 1 })).toThrow(
      /b1 has shape/,
    );
    expect(() => mixtralMoe(x, w, { ...experts, w2: gpu.zeros([E, F, D]) }, { topK: 1 })).toThrow(ShapeError);
    expect(() => mixtralMoe(x, w, { ...experts, activation: "jelu" as never }, { topK: 1 })).toThrow(
      ConfigError,
    );
    expect(() => mixtralMoe(x, w, { ...experts, kind: "mlp" } as never, { topK: 1 })).toThrow(
      /kind of the experts is "mlp"; it must be one of ffn, glu/,
    );
    expect(() => mixtralMoe(x, w, { ...experts, wUp: w } as never, { topK: 1 })).toThrow(/unknown key "wUp"/);
    expect(() => mixtralMoe(x, w, { kind: "ffn", w1: experts.w1 } as never, { topK: 1 })).toThrow(
      "w2 is missing; it must be tensor",
    );
    const gated = { kind: "glu", wGate: experts.w1, wUp: experts.w1, wDown: experts.w2 } as const;
    expect(() => mixtralMoe(x, w, { ...gated, gluKind: "swigl" as never }, { topK: 1 })).toThrow(
      /did you mean "swiglu"/,
    );
    expect(() => gshardMoe(x, w, experts, { capacity: 1, secondPolicy: "random" })).toThrow(/needs uniform/);
    expect(() =>
      gshardMoe(x, w, experts, { capacity: 1, secondPolicy: "random", uniform: gpu.zeros([3, 1]) }),
    ).toThrow(/uniform has shape \[3, 1\]/);
    expect(() => gshardMoe(x, w, experts, { capacity: 1, secondPolicy: "some" as never })).toThrow(
      ConfigError,
    );
    expect(() => expertChoice(gpu.zeros([3, D]), w, experts, { capacity: 1 })).toThrow(/groups by sequence/);
    expect(() => expertChoice(x, w, experts, { capacity: 1, topK: 2 } as never)).toThrow(
      /unknown key "topK"/,
    );
  });
});
