import { describe, expect, it } from "vitest";
import { FormatError } from "@x/kernels";
import { dequantise } from "./dequantise.js";
import { TENSOR_TYPES, typeNumber } from "./tensor_types.js";

/** Halves: 0.5, 0.25, 1, -2. */
const [H, Q, ONE, MINUS_TWO] = [
  [0x00, 0x38],
  [0x00, 0x34],
  [0x00, 0x3c],
  [0x00, 0xc0],
] as const;
const fill = (count: number, f: (i: number) => number): number[] =>
  Array.from({ length: count }, (_, i) => f(i));
const numbers = (type: string, ...bytes: number[]): number[] =>
  Array.from(dequantise("file", "w", TENSOR_TYPES.get(typeNumber(type))!, Uint8Array.from(bytes)));

describe("blocks of GGUF tensors, made by hand", () => {
  it("F32, F16, BF16 and F64", () => {
    expect(numbers("F32", 0, 0, 0xc0, 0x3f)).toEqual([1.5]);
    expect(numbers("F16", ...H, ...MINUS_TWO)).toEqual([0.5, -2]);
    expect(numbers("BF16", 0xc0, 0x3f)).toEqual([1.5]);
    expect(numbers("F64", 0, 0, 0, 0, 0, 0, 0xf8, 0x3f)).toEqual([1.5]);
  });

  it("Q8_0: d q, q signed", () => {
    expect(numbers("Q8_0", ...H, ...fill(32, (i) => (i === 0 ? 0x80 : i === 31 ? 0x7f : i)))).toEqual(
      fill(32, (i) => 0.5 * (i === 0 ? -128 : i === 31 ? 127 : i)),
    );
  });

  // Byte j: low nibble j, high nibble 15 - j.
  const nibbles = fill(16, (j) => j | ((15 - j) << 4));
  const low = (i: number): number => (i < 16 ? i : 31 - i);

  it("Q4_0 and Q4_1: low nibbles are the first 16 values", () => {
    expect(numbers("Q4_0", ...H, ...nibbles)).toEqual(fill(32, (i) => 0.5 * (low(i) - 8)));
    expect(numbers("Q4_1", ...H, ...MINUS_TWO, ...nibbles)).toEqual(fill(32, (i) => 0.5 * low(i) - 2));
  });

  // Bit i of 0x0f0f00ff is the fifth bit of value i.
  const fifths = [0xff, 0x00, 0x0f, 0x0f];
  const five = (i: number): number => low(i) + ((fifths[i >> 3]! >> (i & 7)) & 1) * 16;

  it("Q5_0 and Q5_1: a fifth bit for each value", () => {
    expect(numbers("Q5_0", ...H, ...fifths, ...nibbles)).toEqual(fill(32, (i) => 0.5 * (five(i) - 16)));
    expect(numbers("Q5_1", ...H, ...ONE, ...fifths, ...nibbles)).toEqual(fill(32, (i) => 0.5 * five(i) + 1));
  });

  const scales = [1, 2, 31, 63, 17, 34, 51, 60];
  const minima = [0, 5, 33, 63, 16, 47, 12, 1];
  /** Twelve bytes: the low six bits of the first four of each, the last four in nibbles with their top bits there. */
  const packed = [
    ...fill(4, (j) => scales[j]! | ((scales[j + 4]! >> 4) << 6)),
    ...fill(4, (j) => minima[j]! | ((minima[j + 4]! >> 4) << 6)),
    ...fill(4, (j) => (scales[j + 4]! & 15) | ((minima[j + 4]! & 15) << 4)),
  ];
  const q = (i: number): number => (i * 7 + (i >> 5)) & 15;
  /** Each 32 bytes hold 64 values, low nibbles first. */
  const pairs = fill(128, (at) => {
    const i = 64 * (at >> 5) + (at & 31);
    return q(i) | (q(i + 32) << 4);
  });

  it("Q4_K: d scale q - dmin minimum", () => {
    expect(numbers("Q4_K", ...H, ...Q, ...packed, ...pairs)).toEqual(
      fill(256, (i) => 0.5 * scales[i >> 5]! * q(i) - 0.25 * minima[i >> 5]!),
    );
  });

  it("Q5_K: bit j of byte l is the fifth bit of value l of group j", () => {
    const high = fill(32, (l) => (l * 37 + 11) & 255);
    const fifth = (i: number): number => ((high[i & 31]! >> (i >> 5)) & 1) * 16;
    expect(numbers("Q5_K", ...H, ...Q, ...packed, ...high, ...pairs)).toEqual(
      fill(256, (i) => 0.5 * scales[i >> 5]! * (q(i) + fifth(i)) - 0.25 * minima[i >> 5]!),
    );
  });

  it("Q6_K: quarters of each half take nibbles and pairs of bits, one signed scale for 16 values", () => {
    const six = (i: number): number => (i * 11 + (i >> 4)) & 63;
    const signed = fill(16, (g) => (g % 3 === 0 ? -g - 1 : g * 5));
    const lows = fill(128, (at) => {
      const i = 128 * (at >> 6) + (at & 63);
      return (six(i) & 15) | ((six(i + 64) & 15) << 4);
    });
    const highs = fill(64, (at) => {
      const i = 128 * (at >> 5) + (at & 31);
      return fill(4, (quarter) => (six(i + 32 * quarter) >> 4) << (2 * quarter)).reduce((a, b) => a | b, 0);
    });
    expect(numbers("Q6_K", ...lows, ...highs, ...signed.map((s) => s & 255), ...H)).toEqual(
      fill(256, (i) => 0.5 * signed[i >> 4]! * (six(i) - 32)),
    );
  });

  it("a type that is not read is refused by tensor and name", () => {
    expect(() => numbers("IQ4_NL", ...fill(18, () => 0))).toThrow(FormatError);
    expect(() => numbers("IQ4_NL", ...fill(18, () => 0))).toThrow(
      /file: tensor "w" is IQ4_NL; weights of F64/,
    );
  });
});
