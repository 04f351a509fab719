import { describe, expect, it } from "vitest";
import { changes, fell, otherBuild, showChanges } from "./against.js";
import { PROJECT, type Implementation } from "./implementation.js";
import type { Result, Row } from "./run.js";

const OTHER: Implementation = { ...PROJECT, name: "before" };

const ok = (rounds: readonly number[]): Result => ({
  ...{ status: "ok", median: 0, least: 0, samples: rounds.length, error: 0 },
  rounds,
});
const row = (name: string, mine: readonly number[], theirs: readonly number[]): Row => ({
  ...{ name, unit: "ms", flops: undefined, bytes: undefined },
  results: { [PROJECT.name]: ok(mine), [OTHER.name]: ok(theirs) },
});

describe("a comparison of two builds", () => {
  it("names the rows that fell by more than the noise, the slowest first", () => {
    const all = changes(
      [
        row("steady", [10, 10, 10], [10, 10.1, 9.9]),
        row("a little slower", [10.2, 10.2, 10.2], [10, 10, 10]),
        row("slower", [11, 11.1, 11], [10, 10, 10]),
        row("noisy", [11, 20, 9], [10, 10, 10]),
        row("much slower", [20, 20, 20], [10, 10, 10]),
        row("faster", [5, 5, 5], [10, 10, 10]),
      ],
      PROJECT,
      OTHER,
    );
    expect(all.filter(fell).map((change) => change.row)).toEqual(["much slower", "slower"]);
    const noisy = all.find((change) => change.row === "noisy")!;
    expect([noisy.ratio, noisy.noise].map((value) => value.toFixed(6))).toEqual(["1.100000", "0.400000"]);
    const said = showChanges(all, OTHER);
    expect(said).toContain("against before: 2 of 6 rows fell by more than the noise");
    expect(said).toContain("much slower: 2.00 times the time (noise 3 %)");
    expect(said).toContain("faster by more than the noise:\n  faster: 0.50 times the time");
  });

  it("takes the ratio of each round, so that a load on both builds is no fall", () => {
    const [change] = changes([row("loaded", [10, 30, 20], [10, 30, 20])], PROJECT, OTHER);
    expect(change).toEqual({ row: "loaded", ratio: 1, noise: 0.03 });
  });

  it("leaves out what has one round or no right result", () => {
    const wrong: Row = {
      ...row("wrong", [1, 1], [1, 1]),
      results: { [OTHER.name]: ok([1, 1]), [PROJECT.name]: { status: "wrong", error: 1 } },
    };
    expect(changes([row("cold", [20], [10]), wrong], PROJECT, OTHER)).toEqual([]);
  });

  it("refuses a folder that is not a built checkout", () => {
    expect(() => otherBuild("/no/such/checkout")).toThrow(/--against: .*npm run build/);
  });
});
