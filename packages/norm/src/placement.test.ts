import { describe, expect, it } from "vitest";
import { linear, tanh, type Tensor } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { layerNorm } from "./layernorm.js";
import { layerNormReference } from "./layernorm.reference.js";
import { deepnormConstants, placement, subLnGain, type Placement, type StreamMap } from "./placement.js";

const dim = 6;
type Rows = (x: Float64Array) => Float64Array;
type Sub = (x: Float64Array, inner?: Rows) => Float64Array;
const plus = (a: Float64Array, b: Float64Array, scale = 1): Float64Array =>
  a.map((v, i) => scale * v + b[i]!);

/** x' of each placement from f, N and M, as the papers print it. */
const REFERENCE: Readonly<
  Record<Placement, (x: Float64Array, f: Sub, N: Rows, M: Rows, alpha: number) => Float64Array>
> = {
  postLn: (x, f, N) => N(plus(x, f(x))),
  preLn: (x, f, N) => plus(x, f(N(x))),
  subLn: (x, f, N, M) => plus(x, f(N(x), M)),
  sandwich: (x, f, N, M) => plus(x, M(f(N(x)))),
  periLn: (x, f, N, M) => plus(x, M(f(N(x)))),
  deepnorm: (x, f, N, _, alpha) => N(plus(x, f(x), alpha)),
};

describe("placements", () => {
  const device = useGpu();

  it("put the norms where the papers do, with gradients", async () => {
    const apply =
      (w: Float64Array): Sub =>
      (x, inner) => {
        const out = new Float64Array(x.length);
        for (let r = 0; r < x.length; r += dim)
          for (let o = 0; o < dim; o++) {
            let sum = 0;
            for (let i = 0; i < dim; i++) sum += w[o * dim + i]! * x[r + i]!;
            out[r + o] = Math.tanh(sum);
          }
        return inner ? inner(out) : out;
      };
    for (const name of Object.keys(REFERENCE) as Placement[])
      await checkOp(
        device.gpu,
        (x, w, n, m) =>
          placement(name)(x, {
            sublayer: (t: Tensor, inner: StreamMap = (x) => x) => inner(tanh(linear(t, w))),
            norm: (t: Tensor) => layerNorm(t, { weight: n }),
            normOut: (t: Tensor) => layerNorm(t, { weight: m }),
            normInner: (t: Tensor) => layerNorm(t, { weight: m }),
            alpha: 1.5,
          }),
        (x, w, n, m) =>
          REFERENCE[name](
            x,
            apply(w),
            (t) => layerNormReference({ dim, eps: 1e-5 }, t, n),
            (t) => layerNormReference({ dim, eps: 1e-5 }, t, m),
            1.5,
          ),
        [operand([2, 2, dim], 1), operand([dim, dim], 2), operand([dim], 3), operand([dim], 4)],
      );
  });

  it("has the constants of DeepNorm's table 2 and Magneto's section 2.3", () => {
    expect(deepnormConstants({ architecture: "encoder", encoderLayers: 8 })).toEqual({
      alpha: 2,
      beta: 64 ** -0.25,
    });
    expect(deepnormConstants({ decoderLayers: 8 })).toEqual({ alpha: 2, beta: 64 ** -0.25 });
    const both = { architecture: "encoderDecoder", encoderLayers: 2, decoderLayers: 16 } as const;
    const encoder = deepnormConstants({ ...both, side: "encoder" });
    expect(encoder.alpha).toBeCloseTo(0.81 * 256 ** (1 / 16), 12);
    expect(encoder.beta).toBeCloseTo(0.87 * 256 ** (-1 / 16), 12);
    expect(deepnormConstants({ ...both, side: "decoder" }).alpha).toBeCloseTo(48 ** 0.25, 12);
    expect(deepnormConstants({ ...both, side: "decoder" }).beta).toBeCloseTo(192 ** -0.25, 12);
    expect(subLnGain({ architecture: "encoder", encoderLayers: 3 })).toBeCloseTo(Math.sqrt(Math.log(6)), 12);
    expect(subLnGain({ decoderLayers: 3 })).toBeCloseTo(Math.sqrt(Math.log(6)), 12);
    expect(subLnGain({ ...both, side: "encoder" })).toBeCloseTo(
      Math.sqrt((Math.log(48) * Math.log(4)) / 3),
      12,
    );
    expect(subLnGain({ ...both, side: "decoder" })).toBeCloseTo(Math.sqrt(Math.log(48)), 12);
  });

  it("refuses what does not fit, by name", () => {
    const step = { sublayer: (x: Tensor) => x, norm: (x: Tensor) => x };
    expect(() => placement("sandwich")(device.gpu.zeros([1, 1, 2]), step)).toThrow(/normOut is missing/);
    expect(() => placement("subLn")(device.gpu.zeros([1, 1, 2]), step)).toThrow(/normInner is missing/);
    expect(() => placement("postLN" as never)).toThrow(/did you mean "postLn"/);
    expect(() =>
      deepnormConstants({ architecture: "encoderDecoder", encoderLayers: 2, decoderLayers: 2 }),
    ).toThrow(/side/);
    expect(() => deepnormConstants({})).toThrow(/decoderLayers is 0/);
    expect(() => subLnGain({ architecture: "encoder" })).toThrow(/encoderLayers is 0/);
    expect(() => subLnGain({ layers: 3 } as never)).toThrow(/unknown key "layers"/);
  });
});
