import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll } from "vitest";
import { openDevice, type Gpu, type OpenDeviceOptions } from "@x/kernels";

export * from "@x/kernels/testing";

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

/** The repository's root. */
export const repository: string = fileURLToPath(new URL("../../../", import.meta.url));

/** A folder of third-party data beside the repository, or undefined where it is absent. */
export function sharedFolder(name: string): string | undefined {
  const path = `${repository}../shared/${name}`;
  return existsSync(path) ? path : undefined;
}
