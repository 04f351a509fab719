import * as kernels from "@x/kernels";
import { type Gpu, openDevice } from "@x/kernels";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { KERNELS, KERNELS_APART } from "./arguments/kernels.js";
import { callables, faults } from "./arguments/probe.js";

let gpu: Gpu;
beforeAll(async () => {
  gpu = await openDevice();
});
afterAll(() => {
  gpu.destroy();
});

describe("@x/kernels refuses what its exports do not take, by typed errors", () => {
  it("and every export stands in the list, or among those that are not probed", () => {
    const listed = [...Object.keys(KERNELS), ...Object.keys(KERNELS_APART)];
    expect(listed.sort()).toEqual(callables(kernels).sort());
  });

  it.each(Object.keys(KERNELS))("%s", async (name) => {
    expect(await faults(gpu, KERNELS[name]!)).toEqual([]);
  });
});
