import { afterAll, beforeAll } from "vitest";
import { openDevice, type OpenDeviceOptions } from "./device.js";
import type { Gpu } from "./gpu.js";

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
