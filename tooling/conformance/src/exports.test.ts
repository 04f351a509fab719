import * as ffn from "@x/ffn";
import { type Gpu, openDevice } from "@x/kernels";
import * as moe from "@x/moe";
import * as norm from "@x/norm";
import * as positional from "@x/positional";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { FFN } from "./arguments/ffn.js";
import { MOE } from "./arguments/moe.js";
import { NORM } from "./arguments/norm.js";
import { POSITIONAL } from "./arguments/positional.js";
import { callables, faults, type ValidCalls } from "./arguments/probe.js";

const PACKAGES: readonly (readonly [string, Readonly<Record<string, unknown>>, ValidCalls])[] = [
  ["@x/ffn", ffn, FFN],
  ["@x/moe", moe, MOE],
  ["@x/norm", norm, NORM],
  ["@x/positional", positional, POSITIONAL],
];

let gpu: Gpu;
beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => {
  gpu.destroy();
});

describe.each(PACKAGES)("%s refuses what its exports do not take, by typed errors", (_, exported, calls) => {
  it("and every export stands in the list", () => {
    expect(Object.keys(calls).sort()).toEqual(callables(exported).sort());
  });

  it.each(Object.keys(calls))("%s", async (name) => {
    expect(await faults(gpu, calls[name]!)).toEqual([]);
  });
});
