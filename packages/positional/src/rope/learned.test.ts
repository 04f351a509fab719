import { describe, expect, it } from "vitest";
import { cast, ShapeError } from "@x/kernels";
import { checkOp, operand, relativeError, useGpu } from "@x/testing";
import { rotateReference } from "./rope.reference.js";
import { learnedRope } from "./learned.js";

describe("learnedRope", () => {
  const device = useGpu();

  it("turns by trained frequencies, with gradients of input and frequencies", async () => {
    for (const [shape, n, layout, positions] of [
      [[2, 2, 3, 6], 3, "half", undefined],
      [[1, 2, 3, 7], 2, "interleaved", undefined],
      [[2, 1, 2, 4], 2, "half", [3, 0, 1, 5]],
    ] as const) {
      const [batch, heads, seq, headDim] = shape;
      await checkOp(
        device.gpu,
        (x, invFreq) =>
          learnedRope(x, { invFreq, layout, ...(positions ? { positions } : { positionOffset: 2 }) }),
        (x, invFreq) =>
          rotateReference(
            {
              batch,
              heads,
              seq,
              headDim,
              invFreq,
              interleaved: layout === "interleaved",
              position: (b, s) => (positions ? positions[b * seq + s]! : 2 + s),
            },
            x,
          ),
        [operand(shape, 1), operand([n], 2)],
      );
    }
  });

  it("leaves half precision in half precision, the features that do not turn too", async ({ skip }) => {
    const { gpu } = device;
    if (!gpu.features.f16) skip("the adapter has no shader-f16");
    const x = gpu.tensor(operand([1, 2, 3, 7], 1).data, [1, 2, 3, 7]);
    const invFreq = gpu.tensor([1, 0.25], [2]);
    for (const layout of ["half", "interleaved"] as const) {
      const out = learnedRope(cast(x, "f16"), { invFreq, layout });
      expect(out.dtype).toBe("f16");
      const expected = await learnedRope(x, { invFreq, layout }).read();
      expect(relativeError(await out.read(), expected)).toBeLessThan(2e-3);
    }
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const x = gpu.zeros([1, 1, 2, 4]);
    expect(() => learnedRope(x, { invFreq: gpu.zeros([3]) })).toThrow(/invFreq has 3 entries; headDim is 4/);
    expect(() => learnedRope(gpu.zeros([2, 4]), { invFreq: gpu.zeros([2]) })).toThrow(ShapeError);
    expect(() => learnedRope(x, { invFreq: gpu.zeros([2, 1]) })).toThrow(/it must be \[pairs\]/);
    expect(() => learnedRope(x, { invFreq: gpu.zeros([2]), positions: [1, 2, 3] })).toThrow(
      /positions has 3 entries/,
    );
    expect(() => learnedRope(x, { invFreq: gpu.zeros([2]), rotaryDim: 2 } as never)).toThrow(
      /unknown key "rotaryDim"/,
    );
  });
});
