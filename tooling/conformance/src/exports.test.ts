import * as attention from "@x/attention";
import * as ffn from "@x/ffn";
import { type Gpu, openDevice } from "@x/kernels";
import * as moe from "@x/moe";
import * as norm from "@x/norm";
import * as positional from "@x/positional";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ATTENTION_APART, ENGINE } from "./arguments/attention.js";
import { LAYERS } from "./arguments/attention_layers.js";
import { FFN } from "./arguments/ffn.js";
import { MOE } from "./arguments/moe.js";
import { NORM } from "./arguments/norm.js";
import { POSITIONAL } from "./arguments/positional.js";
import { callables, faults, type ValidCalls } from "./arguments/probe.js";

type Package = readonly [
  name: string,
  exported: Readonly<Record<string, unknown>>,
  calls: ValidCalls,
  apart: Readonly<Record<string, string>>,
];
const PACKAGES: readonly Package[] = [
  ["@x/attention", attention, { ...ENGINE, ...LAYERS }, ATTENTION_APART],
  ["@x/ffn", ffn, FFN, {}],
  ["@x/moe", moe, MOE, {}],
  ["@x/norm", norm, NORM, {}],
  ["@x/positional", positional, POSITIONAL, {}],
];

let gpu: Gpu;
beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => {
  gpu.destroy();
});

describe.each(PACKAGES)(
  "%s refuses what its exports do not take, by typed errors",
  (_, exported, calls, apart) => {
    it("and every export stands in the list, or among those that are not probed", () => {
      const rest = Object.entries(exported).filter(([name]) => !(name in apart));
      expect(Object.keys(calls).sort()).toEqual(callables(Object.fromEntries(rest)).sort());
      expect(Object.keys(exported)).toEqual(expect.arrayContaining(Object.keys(apart)));
    });

    it.each(Object.keys(calls))("%s", async (name) => {
      expect(await faults(gpu, calls[name]!)).toEqual([]);
    });
  },
);
