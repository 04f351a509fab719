import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { relativeError } from "@x/testing";
import { plainFrequencies } from "./frequencies.js";
import { ropeFrequencies, type RopeConfig, type RopeScaling } from "./resolve.js";

const of = (scaling: RopeScaling, config: Partial<RopeConfig> = {}, seqLen = 0) =>
  ropeFrequencies({ headDim: 32, ...config, scaling }, seqLen);
const plain = (base = 10000, d = 32): Float64Array => plainFrequencies({ d, base });

describe("rope frequencies", () => {
  it("PI at factor 1 is RoPE, and superhot is PI with the inverse factor", () => {
    expect(of({ type: "linear", factor: 1 })).toEqual(of({ type: "none" }));
    fc.assert(
      fc.property(fc.double({ min: 1, max: 64, noNaN: true }), (factor) => {
        const pi = of({ type: "linear", factor }).invFreq;
        expect(
          relativeError(
            pi,
            plain().map((w) => w / factor),
          ),
        ).toBe(0);
        const hot = of({ type: "superhot", positionScale: 1 / factor }).invFreq;
        expect(relativeError(hot, pi)).toBeLessThan(1e-15);
      }),
    );
    expect(of({ type: "superhot" }).invFreq).toEqual(plain().map((w) => w * 0.25));
  });

  it("ntk keeps the highest frequency and divides the lowest by the factor", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 64 }),
        fc.double({ min: 1, max: 32, noNaN: true }),
        (pairs, factor) => {
          const got = of({ type: "ntk", factor }, { headDim: 2 * pairs }).invFreq;
          const was = plain(10000, 2 * pairs);
          expect(got[0]).toBe(1);
          expect(got.at(-1)! / (was.at(-1)! / factor)).toBeCloseTo(1, 10);
        },
      ),
    );
    // One pair: the exponent d / (d - 2) does not exist.
    expect([...of({ type: "ntk", factor: 8 }, { headDim: 2 }).invFreq]).toEqual([1]);
  });

  it("dynamic NTK is RoPE within the trained length and grows beyond it", () => {
    const scaling = { type: "dynamicNtk", factor: 2, originalMaxPositionEmbeddings: 100 } as const;
    for (const n of [0, 1, 100]) expect(of(scaling, {}, n).invFreq).toEqual(plain());
    const base = 10000 * ((2 * 300) / 100 - 1) ** (32 / 30);
    expect(relativeError(of(scaling, {}, 300).invFreq, plain(base))).toBeLessThan(1e-15);
    const paper = { ...scaling, factor: 1 };
    expect(relativeError(of(paper, {}, 300).invFreq, plain(10000 * 3 ** (32 / 30)))).toBeLessThan(1e-15);
  });

  it("ntkByParts blends by turns, or by index as the public YaRN code", () => {
    const [factor, L] = [4, 2048];
    const keys = { factor, originalMaxPositionEmbeddings: L };
    const clamp = (x: number): number => Math.min(1, Math.max(0, x));
    const turns = plain().map((w) => {
      const g = clamp(((L * w) / (2 * Math.PI) - 1) / 31);
      return g * w + ((1 - g) * w) / factor;
    });
    expect(relativeError(of({ type: "ntkByParts", ...keys }).invFreq, turns)).toBeLessThan(1e-15);
    const c = (r: number): number => (32 * Math.log(L / (2 * Math.PI * r))) / (2 * Math.log(10000));
    for (const truncate of [true, false]) {
      const [low, high] = truncate ? [Math.floor(c(32)), Math.ceil(c(1))] : [c(32), c(1)];
      const index = plain().map((w, i) => {
        const g = 1 - clamp((i - Math.max(low, 0)) / (Math.min(high, 31) - Math.max(low, 0)));
        return g * w + ((1 - g) * w) / factor;
      });
      const scaling = { type: "ntkByParts", ...keys, rampSpace: "index", truncate } as const;
      expect(relativeError(of(scaling).invFreq, index)).toBeLessThan(1e-15);
      expect(of({ type: "yarn", ...keys, truncate }).invFreq).toEqual(of(scaling).invFreq);
    }
    expect(
      relativeError(of({ type: "ntkByParts", ...keys, rampSpace: "index" }).invFreq, turns),
    ).toBeGreaterThan(1e-3);
  });

  it("llama3 is ntkByParts in turns with its own names", () => {
    const L = { originalMaxPositionEmbeddings: 8192 };
    expect(
      of({ type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, ...L }, { base: 500000 }),
    ).toEqual(of({ type: "ntkByParts", factor: 8, betaSlow: 1, betaFast: 4, ...L }, { base: 500000 }));
  });

  it("yarn's temperature follows the factor, mscale, or is given", () => {
    const keys = { type: "yarn", factor: 40, originalMaxPositionEmbeddings: 4096 } as const;
    const m = (c: number): number => 0.1 * c * Math.log(40) + 1;
    expect(of(keys).attentionFactor).toBeCloseTo(m(1), 14);
    expect(of({ ...keys, mscale: 0.7, mscaleAllDim: 1.1 }).attentionFactor).toBeCloseTo(m(0.7) / m(1.1), 14);
    expect(of({ ...keys, mscale: 0.7 }).attentionFactor).toBeCloseTo(m(1), 14);
    expect(of({ ...keys, mscale: 0, mscaleAllDim: 1 }).attentionFactor).toBeCloseTo(m(1), 14);
    expect(of({ ...keys, attentionFactor: 0.8 }).attentionFactor).toBe(0.8);
    expect(of({ ...keys, factor: 1 }).attentionFactor).toBe(1);
  });

  it("longrope changes its list past the trained length", () => {
    const short = Array.from({ length: 16 }, (_, i) => 1 + i / 16);
    const long = short.map((x) => 3 * x);
    const keys = {
      type: "longrope",
      shortFactor: short,
      longFactor: long,
      originalMaxPositionEmbeddings: 64,
    } as const;
    const divided = (list: number[]): Float64Array => plain().map((w, i) => w / list[i]!);
    expect(of(keys, {}, 64).invFreq).toEqual(divided(short));
    expect(of(keys, {}, 65).invFreq).toEqual(divided(long));
    const f = Math.sqrt(1 + Math.log(4) / Math.log(64));
    for (const n of [1, 100]) {
      expect(of({ ...keys, maxPositionEmbeddings: 256 }, {}, n).attentionFactor).toBeCloseTo(f, 14);
      expect(of({ ...keys, factor: 4 }, {}, n).attentionFactor).toBeCloseTo(f, 14);
      expect(of({ ...keys, factor: 0.5 }, {}, n).attentionFactor).toBe(1);
      expect(of({ ...keys, factor: 4, attentionFactor: 1.25 }, {}, n).attentionFactor).toBe(1.25);
    }
    const each = { ...keys, attentionFactor: { short: 1.1, long: 1.3 } };
    expect([of(each, {}, 10).attentionFactor, of(each, {}, 100).attentionFactor]).toEqual([1.1, 1.3]);
  });

  it("custom divides pair by pair", () => {
    const pairFactors = Array.from({ length: 16 }, (_, i) => i + 1);
    const got = of({ type: "custom", pairFactors, attentionFactor: 1.2 });
    expect(got.invFreq).toEqual(plain().map((w, i) => w / (i + 1)));
    expect(got.attentionFactor).toBe(1.2);
  });

  it("refuses keys, types and values that are not of the method", () => {
    const L = { originalMaxPositionEmbeddings: 64 };
    const bad: [unknown, RegExp][] = [
      [{ type: "proportional" }, /scaling.type is "proportional"/],
      [{ type: "linear", factor: 0.5 }, /rope linear: factor is 0.5/],
      [{ type: "linear", factor: 2, beta: 1 }, /rope linear: unknown key "beta"/],
      [{ type: "superhot", positionScale: 0 }, /positionScale is 0/],
      [{ type: "ntk" }, /factor is undefined/],
      [{ type: "dynamicNtk", factor: 2 }, /originalMaxPositionEmbeddings is undefined/],
      [{ type: "ntkByParts", factor: 2, ...L, betaFast: 1, betaSlow: 2 }, /betaFast is 1/],
      [{ type: "ntkByParts", factor: 2, ...L, betaFast: 2, betaSlow: 2 }, /betaFast is 2; it must be above/],
      [{ type: "ntkByParts", factor: 2, ...L, truncate: "no" }, /truncate is "no"/],
      [{ type: "yarn", factor: 2, ...L, truncate: 0 }, /truncate is 0/],
      [
        {
          type: "longrope",
          shortFactor: Array(16).fill(1),
          longFactor: Array(16).fill(1),
          ...L,
          attentionFactor: { short: 1, longer: 2 },
        },
        /unknown key "longer"/,
      ],
      [{ type: "yarn", factor: 2, ...L, rampSpace: "turns" }, /rampSpace is "turns"/],
      [{ type: "yarn", factor: 2, ...L, attentionFactor: NaN }, /attentionFactor is NaN/],
      [
        { type: "longrope", shortFactor: [1], longFactor: [1], ...L },
        /shortFactor has 1 entries; it must have 16/,
      ],
      [{ type: "llama3", factor: 8, lowFreqFactor: 4, highFreqFactor: 4, ...L }, /highFreqFactor is 4/],
      [{ type: "custom", pairFactors: Array(16).fill(0) }, /pairFactors is 0/],
    ];
    for (const [scaling, message] of bad) expect(() => of(scaling as RopeScaling)).toThrow(message);
  });
});
