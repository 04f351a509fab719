import { describe, expect, it } from "vitest";
import { linear, tanh, type Tensor } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import { layerNorm } from "./layernorm.js";
import { layerNormReference } from "./layernorm.reference.js";
import {
  deepnormConstants,
  parallelResidual,
  placement,
  subLnGain,
  type Placement,
  type StreamMap,
} from "./placement.js";

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
  resPostNorm: (x, f, N) => plus(x, N(f(x))),
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

  it("scales the branch and not the stream", async () => {
    const { gpu } = device;
    const x = gpu.tensor([1, -2, 3, 4], [1, 1, 4]);
    const half = { sublayer: (t: Tensor) => t, norm: (t: Tensor) => t, normOut: (t: Tensor) => t };
    for (const name of ["preLn", "postLn", "sandwich", "resPostNorm"] as const)
      expect([...(await placement(name)(x, { ...half, branchScale: 0.5 }).read())]).toEqual([
        1.5, -3, 4.5, 6,
      ]);
    expect([...(await placement("deepnorm")(x, { ...half, alpha: 2, branchScale: 0.5 }).read())]).toEqual([
      2.5, -5, 7.5, 10,
    ]);
  });

  it("puts sublayers side by side, and computes a norm that they share once", async () => {
    const map = (f: (v: number) => number) => (t: Float64Array) => t.map(f);
    await checkOp(
      device.gpu,
      (x, w, n, m) =>
        parallelResidual(x, [
          { sublayer: (t) => tanh(linear(t, w)), norm: (t) => layerNorm(t, { weight: n }) },
          { sublayer: (t) => tanh(t), norm: (t) => layerNorm(t, { weight: m }) },
        ]),
      (x, w, n, m) => {
        const normed = (weight: Float64Array) => layerNormReference({ dim, eps: 1e-5 }, x, weight);
        const first = normed(n);
        const product = x.map((_, at) => {
          const row = at - (at % dim);
          return w
            .slice((at % dim) * dim, ((at % dim) + 1) * dim)
            .reduce((s, v, i) => s + v * first[row + i]!, 0);
        });
        return plus(plus(x, map(Math.tanh)(product)), map(Math.tanh)(normed(m)));
      },
      [operand([2, 2, dim], 1), operand([dim, dim], 2), operand([dim], 3), operand([dim], 4)],
    );
    let calls = 0;
    const norm: StreamMap = (t) => {
      calls++;
      return t;
    };
    const branch = { sublayer: (t: Tensor) => t, norm };
    const out = parallelResidual(device.gpu.tensor([1, 2], [1, 1, 2]), [branch, branch]);
    expect([[...(await out.read())], calls]).toEqual([[3, 6], 1]);
    expect(() => parallelResidual(out, [])).toThrow(/branches must be a list of at least one/);
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
