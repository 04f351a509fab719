import { describe, expect, it } from "vitest";
import { RUNNERS } from "../run.js";
import { files } from "./check_cases.js";
import { readGolden } from "./format.js";

describe("golden cases", () => {
  it("are all there, and every runner has its cases", async () => {
    const counts: Record<string, number> = {};
    for (const { area } of files) counts[area] = (counts[area] ?? 0) + 1;
    expect(counts).toEqual({ attention: 51, ffn: 20, moe: 19, norm: 14, positional: 19 });
    const run = new Set<string>();
    for (const { area, path } of files) run.add(`${area}/${(await readGolden(path)).mechanism}`);
    const known = Object.entries(RUNNERS).flatMap(([area, of]) =>
      Object.keys(of).map((name) => `${area}/${name}`),
    );
    expect(known.filter((name) => !run.has(name))).toEqual([]);
  });
});
