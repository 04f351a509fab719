import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError, DTypeError, ShapeError } from "@x/kernels";
import { checkOp, numbers, operand, useGpu } from "@x/testing";
import { capacitySlots } from "./expert_capacity.reference.js";
import { capacityOf, combine, dispatch, expertCapacity, gatherTokens } from "../index.js";

/** Choices of tokens: distinct experts, some of them -1 (not tried). */
const choices = (tokens: number, k: number, experts: number, seed: number, holes: boolean): number[] =>
  Array.from({ length: tokens }, (_, t) => {
    const noise = numbers(experts, seed * 1000 + t);
    const order = Array.from({ length: experts }, (_, e) => e).sort((a, b) => noise[a]! - noise[b]!);
    return order.slice(0, k).map((e, j) => (holes && (t * k + j) % 7 === 3 ? -1 : e));
  }).flat();

describe("expertCapacity", () => {
  const device = useGpu();

  it("equals placing one after another, and never exceeds the capacity", async () => {
    const { gpu } = device;
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          B: fc.integer({ min: 1, max: 3 }),
          T: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(63, 65)),
          E: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.constantFrom(40, 65)),
          capacity: fc.integer({ min: 0, max: 12 }),
          priority: fc.constantFrom("choiceFirst", "tokenFirst", "weight"),
          groupBy: fc.constantFrom("batch", "sequence"),
          holes: fc.boolean(),
          seed: fc.integer({ min: 1, max: 99 }),
        }),
        async ({ B, T, E, capacity, priority, groupBy, holes, seed }) => {
          const k = Math.min(1 + (seed % 3), E);
          const indices = choices(B * T, k, E, seed, holes);
          // Few different weights, so that many tokens tie.
          const weights = numbers(B * T * k, seed).map((v) => Math.round(4 * v) / 4 + 0);
          const groups = groupBy === "batch" ? 1 : B;
          const r = gpu.scope(() =>
            expertCapacity(gpu.tensor(indices, [B, T, k], "i32"), gpu.tensor(weights, [B, T, k]), {
              numExperts: E,
              capacity,
              priority,
              groupBy,
            }),
          );
          const expected = capacitySlots(indices, weights, {
            groups,
            tokens: (B * T) / groups,
            k,
            experts: E,
            capacity,
            priority,
          });
          expect(Array.from(await r.slot.read())).toEqual(expected);
          expect(Array.from(await r.kept.read())).toEqual(expected.map((s) => (s < 0 ? 0 : 1)));
          expect(Array.from(await r.placed.read())).toEqual(
            expected.map((s, c) => (s < 0 ? -1 : indices[c]!)),
          );
          expect(Array.from(await r.weights.read())).toEqual(
            expected.map((s, c) => (s < 0 ? 0 : weights[c]!)),
          );
          const [requested, accepted] = [await r.requested.read(), await r.accepted.read()];
          for (let g = 0; g < groups; g++)
            for (let e = 0; e < E; e++) {
              const own = indices.filter(
                (i, c) => i === e && Math.floor((c / indices.length) * groups) === g,
              );
              expect(requested[g * E + e]).toBe(own.length);
              expect(accepted[g * E + e]).toBe(Math.min(own.length, capacity));
            }
          for (const t of [r.slot, r.kept, r.placed, r.weights, r.requested, r.accepted]) t.dispose();
        },
      ),
      { numRuns: 40 },
    );
  });

  it("drops nothing where the capacity is large", async () => {
    const { gpu } = device;
    const indices = choices(30, 2, 4, 5, false);
    const { weights } = gpu.scope(() =>
      expertCapacity(gpu.tensor(indices, [1, 30, 2], "i32"), gpu.tensor(numbers(60, 1), [1, 30, 2]), {
        numExperts: 4,
        capacity: 30,
        renormalizeAfterDrop: false,
      }),
    );
    expect(Array.from(await weights.read())).toEqual(Array.from(numbers(60, 1)));
  });

  it.each([false, true])("gradients of the weights, renormalised %s", async (renormalizeAfterDrop) => {
    const [T, k, E] = [11, 2, 3];
    const indices = choices(T, k, E, 2, true);
    const positive = { shape: [1, T, k], data: numbers(T * k, 3).map((v) => Math.fround(Math.abs(v) + 0.1)) };
    const slots = capacitySlots(indices, positive.data, {
      groups: 1,
      tokens: T,
      k,
      experts: E,
      capacity: 4,
      priority: "tokenFirst",
    });
    await checkOp(
      device.gpu,
      (weights) =>
        expertCapacity(device.gpu.tensor(indices, [1, T, k], "i32"), weights, {
          numExperts: E,
          capacity: 4,
          priority: "tokenFirst",
          renormalizeAfterDrop,
        }).weights,
      (weights) => {
        const left = weights.map((w, c) => (slots[c]! < 0 ? 0 : w));
        if (!renormalizeAfterDrop) return left;
        return left.map((w, c) => {
          const t = Math.floor(c / k) * k;
          return w / Math.max(left[t]! + left[t + 1]!, 1e-9);
        });
      },
      [positive],
    );
  });

  it("rounds as told, in double precision", () => {
    const group = { choices: 18, numExperts: 4 };
    expect(capacityOf({ ...group, capacityFactor: 0.75 })).toBe(4);
    expect(capacityOf({ ...group, capacityFactor: 0.75, rounding: "floor" })).toBe(3);
    expect(capacityOf({ ...group, capacityFactor: 0.1, rounding: "floor", minCapacity: 4 })).toBe(4);
    expect(capacityOf({ ...group, capacity: 2, capacityFactor: 9, minCapacity: 4 })).toBe(2);
    expect(() => capacityOf(group)).toThrow(/neither capacityFactor nor capacity/);
    expect(() => capacityOf({ ...group, capacityFactor: -1 })).toThrow(ConfigError);
    expect(() => capacityOf({ ...group, capacity: 1.5 })).toThrow(ConfigError);
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const [indices, weights] = [gpu.zeros([1, 4, 2], "i32"), gpu.zeros([1, 4, 2])];
    const o = { numExperts: 3, capacity: 1 };
    expect(() => expertCapacity(weights, weights, o)).toThrow(DTypeError);
    expect(() => expertCapacity(indices, gpu.zeros([1, 4, 1]), o)).toThrow(ShapeError);
    expect(() => expertCapacity(indices, weights, { ...o, priority: "first" as never })).toThrow(/priority/);
    expect(() => expertCapacity(gpu.zeros([4, 2], "i32"), gpu.zeros([4, 2]), o)).toThrow(
      /groups by sequence/,
    );
    expect(() => expertCapacity(indices, weights, { ...o, capcity: 2 } as never)).toThrow(/"capacity"/);
    expect(() => expertCapacity(indices, indices, o)).toThrow("weights is i32; it must be f32 or f16");
    expect(() => expertCapacity(indices, weights, { ...o, capacityFactor: -1 })).toThrow(
      /capacityFactor is -1/,
    );
    expect(() => expertCapacity(indices, weights, { ...o, countChoices: "no" as never })).toThrow(
      /countChoices is "no"/,
    );
  });
});

describe("dispatch and combine", () => {
  const device = useGpu();

  it("are inverse: what is gathered comes back to its token, a dropped choice adds nothing", async () => {
    const { gpu } = device;
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 70 }),
        fc.constantFrom(1, 3, 8, 70),
        fc.constantFrom(4, 5, 12),
        fc.boolean(),
        async (T, E, D, holes) => {
          const k = Math.min(2, E);
          const indices = choices(T, k, E, T, holes);
          const x = numbers(T * D, 7);
          const result = gpu.scope(() => {
            const plan = dispatch(gpu.tensor(indices, [T, k], "i32"), E);
            const rows = gatherTokens(gpu.tensor(x, [T, D]), plan);
            return { ...plan, moved: rows, out: combine(rows, gpu.full([T, k], 1), plan) };
          });
          const counted = await result.offsets.read();
          const order = await result.choices.read();
          // Sorted by expert, then by choice; each choice once.
          const kept = indices.flatMap((e, c) => (e < 0 ? [] : [c]));
          const expected = kept.toSorted((a, b) => indices[a]! - indices[b]! || a - b);
          expect(Array.from(order)).toEqual([
            ...expected,
            ...new Array<number>(T * k - kept.length).fill(-1),
          ]);
          for (let e = 0; e < E; e++)
            expect(counted[e + 1]! - counted[e]!).toBe(indices.filter((i) => i === e).length);
          const back = await result.out.read();
          for (let t = 0; t < T; t++) {
            const times = indices.slice(t * k, (t + 1) * k).filter((e) => e >= 0).length;
            for (let d = 0; d < D; d++) expect(back[t * D + d]).toBeCloseTo(times * x[t * D + d]!, 6);
          }
          for (const t of [result.offsets, result.choices, result.rows, result.moved, result.out])
            t.dispose();
        },
      ),
      { numRuns: 25 },
    );
  });

  it.each([
    [4, true],
    [5, false],
  ])("gradients, width %i, dropped choices %s", async (D, holes) => {
    const { gpu } = device;
    const [T, k, E] = [9, 2, 4];
    const indices = choices(T, k, E, 3, holes);
    await checkOp(
      gpu,
      (x, weights) => {
        const plan = dispatch(gpu.tensor(indices, [T, k], "i32"), E);
        return combine(gatherTokens(x, plan), weights, plan);
      },
      (x, weights) =>
        x.map((v, i) => {
          const t = Math.floor(i / D);
          let factor = 0;
          for (let j = 0; j < k; j++) if (indices[t * k + j]! >= 0) factor += weights[t * k + j]!;
          return factor * v;
        }),
      [operand([T, D], 1), operand([T, k], 2)],
    );
  });
});
