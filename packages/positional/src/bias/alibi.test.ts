import { describe, expect, it } from "vitest";
import { elementwise } from "@x/kernels";
import { relativeError, useGpu } from "@x/testing";
import { alibi, alibiSlopes } from "./alibi.js";

describe("alibi", () => {
  const device = useGpu();

  it("has the paper's slopes for powers of two and its rule for other counts", () => {
    expect([...alibiSlopes(8)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8].map((n) => 2 ** -n));
    expect([...alibiSlopes(1)]).toEqual([1 / 256]);
    expect([...alibiSlopes(3)]).toEqual([1 / 16, 1 / 256, 1 / 4]);
    const twelve = alibiSlopes(12);
    expect([...twelve.slice(0, 8)]).toEqual([...alibiSlopes(8)]);
    expect([...twelve.slice(8)]).toEqual([0, 2, 4, 6].map((i) => alibiSlopes(16)[i]));
    for (const heads of [1, 2, 3, 5, 6, 7, 12, 17, 40]) expect(alibiSlopes(heads)).toHaveLength(heads);
  });

  it("takes another largest exponent, in MPT's order of heads", () => {
    // MPT: the slopes of the next power of two m, those of i = 1, 3, .. first, then those of i = 0, 2, ..
    const slope = (i: number, m: number): number => 2 ** ((-4 * (i + 1)) / m);
    expect([...alibiSlopes(4, { maxBias: 4 })]).toEqual([0, 1, 2, 3].map((i) => slope(i, 4)));
    expect([...alibiSlopes(3, { maxBias: 4 })]).toEqual([1, 3, 0].map((i) => slope(i, 4)));
    expect([...alibiSlopes(6, { maxBias: 4 })]).toEqual([1, 3, 5, 7, 0, 2].map((i) => slope(i, 8)));
  });

  it("takes the slope times the distance from the score, on both sides of the query", async () => {
    const modifier = alibi(device.gpu, 5);
    expect(relativeError(await modifier.slopes.read(), alibiSlopes(5))).toBeLessThan(1e-7);
    const apply = elementwise("alibi", ["score", "distance", "slope"], () => modifier.expr);
    const distances = [-9, 0, 1, 4000];
    const biased = apply(2, device.gpu.tensor(distances, [4]), 0.25);
    expect([...(await biased.read())]).toEqual(distances.map((d) => 2 - 0.25 * Math.abs(d)));
  });

  it("refuses a head count that is none", () => {
    expect(() => alibiSlopes(0)).toThrow(/heads is 0/);
    expect(() => alibi(device.gpu, 1.5)).toThrow(/heads is 1.5/);
    expect(() => alibi(device.gpu, 2, { maxBias: 0 })).toThrow(/maxBias is 0/);
  });
});
