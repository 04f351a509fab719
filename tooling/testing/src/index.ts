import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll } from "vitest";
import { openDevice, type Gpu, type OpenDeviceOptions } from "@x/kernels";

export * from "@x/kernels/testing";

/** Kept referenced: adapters become invalid when this object is collected. */
let dawn: GPU | undefined;

/** A device with no more than the limits that WebGPU promises everywhere: a kernel binds at most 8 tensors. */
async function openSmallDevice(options: OpenDeviceOptions): Promise<Gpu> {
  const { create, globals } = await import("webgpu");
  Object.assign(globalThis, globals);
  dawn ??= create([]);
  const adapter = await dawn.requestAdapter();
  if (!adapter) throw new Error("there is no adapter");
  const requiredFeatures = (["subgroups"] as const).filter((feature) => adapter.features.has(feature));
  return openDevice({ ...options, device: await adapter.requestDevice({ requiredFeatures }) });
}

export interface TestDeviceOptions extends OpenDeviceOptions {
  /** The device has only the limits that WebGPU guarantees. */
  readonly small?: boolean;
  /** Kernels take the forms that they have for GPUs, on any adapter. */
  readonly hardware?: boolean;
}

/** A device whose fresh buffers are full of NaN, for the tests of one file. */
export function useGpu({ small = false, hardware = false, ...options }: TestDeviceOptions = {}): {
  readonly gpu: Gpu;
} {
  const holder: { gpu?: Gpu } = {};
  beforeAll(async () => {
    const gpu = await (small ? openSmallDevice : openDevice)({ fillWithNaN: true, ...options });
    holder.gpu = hardware ? Object.assign(gpu, { info: { ...gpu.info, software: false } }) : gpu;
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
