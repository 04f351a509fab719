import { describe, expect, it } from "vitest";
import { fromHalfBits, toHalfBits } from "../index.js";

describe("half precision", () => {
  it("round-trips every finite half", () => {
    for (let bits = 0; bits < 65536; bits++) {
      const value = fromHalfBits(bits);
      if (Number.isNaN(value)) expect(Number.isNaN(fromHalfBits(toHalfBits(value)))).toBe(true);
      else if (toHalfBits(value) !== bits)
        throw new Error(`${String(bits)} became ${String(toHalfBits(value))}`);
    }
  });

  it("rounds to nearest, ties to even, for every pair of neighbours", () => {
    for (let bits = 0; bits < 0x7bff; bits++) {
      const [low, high] = [fromHalfBits(bits), fromHalfBits(bits + 1)];
      const middle = (low + high) / 2;
      if (toHalfBits(middle) !== (bits & 1 ? bits + 1 : bits)) throw new Error(`tie at ${String(middle)}`);
      const above = middle + (high - low) / 8;
      if (toHalfBits(above) !== bits + 1) throw new Error(`above the tie at ${String(middle)}`);
    }
    expect(toHalfBits(65519.99)).toBe(0x7bff);
    expect(toHalfBits(65520)).toBe(0x7c00);
    expect(toHalfBits(-1e9)).toBe(0xfc00);
    expect(toHalfBits(2 ** -26)).toBe(0);
  });
});
