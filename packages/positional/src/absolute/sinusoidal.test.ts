import { describe, expect, it } from "vitest";
import { cast, sum, valueAndGrad } from "@x/kernels";
import { checkOp, operand, relativeError, useGpu } from "@x/testing";
import { sinusoidal, SinusoidalEmbedding, sinusoidalTable, type SinusoidalConfig } from "./sinusoidal.js";

/** One entry of the table as printed. */
function entry(p: number, c: number, { dim, base = 10000, layout, denominator }: SinusoidalConfig): number {
  const concat = layout === "concat";
  const n = concat ? Math.floor(dim / 2) : Math.ceil(dim / 2);
  if (concat && c >= 2 * n) return 0;
  const i = concat ? c % n : Math.floor(c / 2);
  const w = denominator === "halfMinusOne" ? base ** (-i / Math.max(n - 1, 1)) : base ** ((-2 * i) / dim);
  return (concat ? c < n : c % 2 === 0) ? Math.sin(p * w) : Math.cos(p * w);
}

const CONFIGS: readonly SinusoidalConfig[] = [1, 2, 5, 8].flatMap((dim) => [
  { dim },
  { dim, base: 500, layout: "concat" },
  { dim, layout: "concat", denominator: "halfMinusOne" },
  { dim, denominator: "halfMinusOne" },
]);

describe("sinusoidal", () => {
  const device = useGpu();

  it("has the printed table in every layout, odd widths and far positions too", () => {
    const positions = [0, 1, 77, 131_071];
    for (const config of CONFIGS) {
      const expected = positions.flatMap((p) =>
        Array.from({ length: config.dim }, (_, c) => entry(p, c, config)),
      );
      expect(
        relativeError(sinusoidalTable(positions, config), expected),
        JSON.stringify(config),
      ).toBeLessThan(1e-12);
    }
  });

  it("adds its rows to inputScale x, with gradients, at offsets and for any ids", async () => {
    for (const [options, at] of [
      [{ positionOffset: 4 }, (_: number, s: number) => 4 + s],
      [{ positions: [9, 0, 9] }, (_: number, s: number) => [9, 0, 9][s]!],
      [{ positions: [1, 2, 3, 70, 5, 5] }, (b: number, s: number) => [1, 2, 3, 70, 5, 5][3 * b + s]!],
    ] as const)
      for (const config of CONFIGS.slice(4, 12)) {
        const { dim, ...table } = config;
        await checkOp(
          device.gpu,
          (x) => sinusoidal(x, { ...table, ...options, inputScale: 1.5 }),
          (x) =>
            x.map(
              (v, n) =>
                1.5 * v + entry(at(Math.floor(n / (3 * dim)), Math.floor(n / dim) % 3), n % dim, config),
            ),
          [operand([2, 3, dim], 1)],
        );
      }
  });

  it("at an offset gives the rows of the whole sequence", async () => {
    const { gpu } = device;
    const whole = await sinusoidal(gpu.zeros([1, 9, 6])).read();
    const one = await sinusoidal(gpu.zeros([1, 1, 6]), { positionOffset: 8 }).read();
    expect([...one]).toEqual([...whole.slice(48)]);
    const kept = new SinusoidalEmbedding({ dim: 6 });
    for (const seqLen of [9, 200]) {
      const ids = gpu.tensor([8], [1, 1], "i32");
      expect([...(await kept.forward(gpu.zeros([1, 1, 6]), { positionIds: ids, seqLen }).read())]).toEqual([
        ...one,
      ]);
    }
    expect([...(await kept.forward(gpu.zeros([1, 1, 6]), { positionOffset: 8 }).read())]).toEqual([...one]);
    kept.dispose();
  });

  it("leaves a stream of half precision in half precision", async ({ skip }) => {
    const { gpu } = device;
    if (!gpu.features.f16) skip("the adapter has no shader-f16");
    const { shape, data } = operand([2, 5, 6], 3);
    const x = gpu.tensor(data, [...shape]);
    const half = cast(x, "f16");
    const kept = new SinusoidalEmbedding({ dim: 6, inputScale: 2 });
    const positionIds = gpu.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 4], [2, 5], "i32");
    const expected = await kept.forward(x).read();
    for (const out of [kept.forward(half), kept.forward(half, { positionIds, seqLen: 5 })]) {
      expect(out.dtype).toBe("f16");
      expect(relativeError(await out.read(), expected)).toBeLessThan(2e-3);
    }
    const { grads } = valueAndGrad(() => sum(cast(kept.forward(half), "f32")), { half });
    expect([...(await grads.half.read())]).toEqual(Array.from(data, () => 2));
    kept.dispose();
  });

  it("refuses what does not fit, by name", () => {
    expect(() => sinusoidal(device.gpu.zeros([1, 2, 6], "i32"))).toThrow(/x is i32/);
    const x = device.gpu.zeros([1, 2, 6]);
    expect(() => new SinusoidalEmbedding({ dim: 8 }).forward(x)).toThrow(/x has 6 features; dim is 8/);
    expect(() => sinusoidal(device.gpu.zeros([2, 6]))).toThrow(/must be \[batch, seq, dim\]/);
    expect(() => sinusoidal(x, { layout: "half" as never })).toThrow(/layout is "half"/);
    expect(() => sinusoidal(x, { positions: [1, 2, 3] })).toThrow(
      /positions has 3 entries; it must have 2 or 2/,
    );
    expect(() => sinusoidal(x, { scale: 2 } as never)).toThrow(/unknown key "scale"/);
    expect(() => sinusoidal(x, { inputScale: NaN })).toThrow(/inputScale is NaN/);
  });
});
