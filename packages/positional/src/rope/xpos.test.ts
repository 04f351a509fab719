import { describe, expect, it } from "vitest";
import { checkOp, numbers, operand, useGpu } from "@x/testing";
import { rotateReference } from "./rope.reference.js";
import { plainFrequencies } from "./frequencies.js";
import { dot } from "../test-support.js";
import { Xpos } from "./xpos.js";

describe("xpos", () => {
  const device = useGpu();
  const zeta = (i: number, d: number, gamma: number): number => (2 * i + gamma * d) / ((1 + gamma) * d);

  it("turns and scales queries up, keys down, with gradients", async () => {
    for (const [shape, rotaryDim, layout] of [
      [[2, 2, 3, 8], 8, "interleaved"],
      [[1, 3, 2, 7], 6, "half"],
      [[1, 1, 1, 2], 2, "interleaved"],
    ] as const)
      for (const role of ["query", "key"] as const) {
        const [batch, heads, seq, headDim] = shape;
        const xpos = new Xpos({ headDim, rotaryDim, layout, gamma: 0.3, scaleBase: 4 });
        const center = Math.ceil((5 + seq) / 2);
        const sign = role === "query" ? 1 : -1;
        await checkOp(
          device.gpu,
          (x) => xpos.apply(x, role, { positionOffset: 5 }),
          (x) =>
            rotateReference(
              {
                batch,
                heads,
                seq,
                headDim,
                interleaved: layout === "interleaved",
                invFreq: plainFrequencies({ d: rotaryDim, base: 10000 }),
                position: (_, s) => 5 + s,
                scale: (p, i) => zeta(i, rotaryDim, 0.3) ** ((sign * (p - center)) / 4),
              },
              x,
            ),
          [operand(shape, 1)],
        );
      }
  });

  it("makes q.k depend on the distance alone, whatever the center", async () => {
    const { gpu } = device;
    const xpos = new Xpos({ headDim: 8, scaleBase: 64 });
    const x = gpu.tensor(numbers(8, 1), [1, 1, 1, 8]);
    const score = async (q: number, k: number, center: number): Promise<number> => {
      const a = await xpos.apply(x, "query", { positionOffset: q, center }).read();
      const b = await xpos.apply(x, "key", { positionOffset: k, center }).read();
      return dot(a, 0, b, 0, a.length);
    };
    const first = await score(30, 10, 15);
    expect(await score(30, 10, 0)).toBeCloseTo(first, 4);
    expect(await score(90, 70, 15)).toBeCloseTo(first, 4);
    const positionIds = gpu.tensor([30], [1, 1], "i32");
    for (const role of ["query", "key"] as const)
      expect(await xpos.apply(x, role, { positionIds, seqLen: 31, center: 15 }).read()).toEqual(
        await xpos.apply(x, role, { positionOffset: 30, center: 15 }).read(),
      );
    xpos.dispose();
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const xpos = new Xpos({ headDim: 8 });
    expect(() => xpos.apply(gpu.zeros([1, 1, 1, 6]), "query")).toThrow(
      /x has 6 features a head; headDim is 8/,
    );
    expect(() => xpos.apply(gpu.zeros([1, 1, 1, 8]), "value" as never)).toThrow(/role is "value"/);
    expect(() => xpos.apply(gpu.zeros([1, 1, 1, 8]), "key", { centre: 1 } as never)).toThrow(
      /did you mean "center"/,
    );
    expect(() => new Xpos({ headDim: 8, gamma: 0 })).toThrow(/gamma is 0/);
    expect(() => new Xpos({ headDim: 8, scaling: 1 } as never)).toThrow(/unknown key "scaling"/);
  });
});
