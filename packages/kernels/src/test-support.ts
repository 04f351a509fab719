import { afterAll, beforeAll } from "vitest";
import { provideGpu } from "./device/gpu.node.js";
import { openDevice, type OpenDeviceOptions } from "./device/device.js";
import type { Gpu } from "./device/gpu.js";

export * from "./testing.js";

/** A device whose fresh buffers are full of NaN, for the tests of one file. */
export function useGpu(options: OpenDeviceOptions = {}): { readonly gpu: Gpu } {
  const holder: { gpu?: Gpu } = {};
  beforeAll(async () => {
    holder.gpu = await openDevice({ fillWithNaN: true, ...options });
  });
  afterAll(() => {
    holder.gpu?.destroy();
  });
  return {
    get gpu() {
      if (!holder.gpu) throw new Error("the device is opened in beforeAll");
      return holder.gpu;
    },
  };
}

/**
 * Runs and seed of a fuzz test: fixed, so that a failure stays; `FUZZ_RUNS` and `FUZZ_SEED` make a long run with
 * another seed, which fast-check prints when something is found.
 */
export function fuzz(runs: number): { numRuns: number; seed: number } {
  const { FUZZ_RUNS, FUZZ_SEED } = process.env;
  return { numRuns: FUZZ_RUNS === undefined ? runs : Number(FUZZ_RUNS), seed: Number(FUZZ_SEED ?? 1) | 0 };
}

/** A device that binds only as many storage buffers as WebGPU promises everywhere: 8. */
export async function openSmallDevice(): Promise<Gpu> {
  const adapter = await (await provideGpu())?.requestAdapter();
  if (!adapter) throw new Error("there is no adapter");
  const requiredFeatures = (["subgroups"] as const).filter((feature) => adapter.features.has(feature));
  const device = await adapter.requestDevice({ requiredFeatures });
  return openDevice({ device, fillWithNaN: true });
}
