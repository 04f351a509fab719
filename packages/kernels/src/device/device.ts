import { adapterAdvice, compileThreads, provideGpu } from "#gpu";
import { guardSingleCopy } from "../base/abi.js";
import { CompileLanes } from "../kernel/compile_lanes.js";
import { AdapterNotFoundError } from "../base/errors.js";
import { Gpu } from "./gpu.js";
import type { AdapterDescription, GpuFeatures } from "../kernel/kernel.js";
import {
  checkConfig,
  expectBoolean,
  expectFunction,
  expectNumber,
  expectObject,
  expectOneOf,
} from "../base/validate.js";

export interface OpenDeviceOptions {
  /** A WebGPU entry point, adapter or device that the caller already has. */
  readonly gpu?: GPU;
  readonly adapter?: GPUAdapter;
  readonly device?: GPUDevice;
  readonly powerPreference?: "low-power" | "high-performance";
  /** Live and pooled bytes above which an allocation throws OutOfMemoryError; default: no limit. */
  readonly memoryBudget?: number;
  /** Bytes of freed buffers that are kept for reuse; default 256 MiB. */
  readonly poolLimit?: number;
  /** `false` leaves a feature unused although the adapter has it. */
  readonly features?: { readonly f16?: boolean; readonly subgroups?: boolean };
  /** Fill fresh and recycled memory with NaN, so that a kernel that forgets to write is seen. For tests. */
  readonly fillWithNaN?: boolean;
  /** Told once that the adapter is a software renderer; default: nothing is said (see `gpu.info.software`). */
  readonly onNotice?: (message: string) => void;
}

const SOFTWARE = /llvmpipe|lavapipe|swiftshader|basic render|software/i;

function describe(info: GPUAdapterInfo | undefined): AdapterDescription {
  const vendor = info?.vendor ?? "";
  const architecture = info?.architecture ?? "";
  const device = info?.device ?? "";
  const description = info?.description ?? "";
  const fallback = (info as { isFallbackAdapter?: boolean } | undefined)?.isFallbackAdapter === true;
  const text = `${vendor} ${architecture} ${device} ${description}`;
  return {
    name: description || device || [vendor, architecture].filter(Boolean).join(" ") || "unknown adapter",
    vendor,
    architecture,
    description,
    software: fallback || SOFTWARE.test(text),
  };
}

const OPTIONAL: readonly GPUFeatureName[] = ["shader-f16", "subgroups", "timestamp-query"];

function fullLimits(adapter: GPUAdapter): Record<string, number> {
  const limits: Record<string, number> = {};
  for (const name of [
    "maxBufferSize",
    "maxStorageBufferBindingSize",
    "maxStorageBuffersPerShaderStage",
    "maxComputeWorkgroupStorageSize",
    "maxComputeInvocationsPerWorkgroup",
    "maxComputeWorkgroupSizeX",
    "maxComputeWorkgroupSizeY",
    "maxComputeWorkgroupSizeZ",
    "maxComputeWorkgroupsPerDimension",
    "minStorageBufferOffsetAlignment",
    "minUniformBufferOffsetAlignment",
  ] as const) {
    const value = (adapter.limits as unknown as Record<string, number | undefined>)[name];
    if (value !== undefined) limits[name] = value;
  }
  return limits;
}

/** Check the options' values; their names are known by then. @throws ConfigError */
function checkOptions(options: OpenDeviceOptions): void {
  const who = "openDevice";
  for (const name of ["gpu", "adapter", "device"] as const)
    if (options[name] !== undefined) expectObject(who, name, options[name]);
  if (options.powerPreference !== undefined)
    expectOneOf(who, "powerPreference", options.powerPreference, ["low-power", "high-performance"]);
  for (const name of ["memoryBudget", "poolLimit"] as const)
    if (options[name] !== undefined && options[name] !== Infinity) expectNumber(who, name, options[name], 0);
  if (options.fillWithNaN !== undefined) expectBoolean(who, "fillWithNaN", options.fillWithNaN);
  if (options.onNotice !== undefined) expectFunction(who, "onNotice", options.onNotice);
  if (options.features === undefined) return;
  checkConfig(`${who}: features`, options.features, ["f16", "subgroups"]);
  for (const [name, value] of Object.entries(options.features))
    if ((value as unknown) !== undefined) expectBoolean(who, `features.${name}`, value);
}

/**
 * Open a device with the adapter's full limits and, where they exist, 16-bit floats, subgroups and timestamps.
 *
 * Takes the caller's `device`, `adapter` or `gpu`; else `navigator.gpu`; else, in Node, Dawn through the optional
 * peer dependency `webgpu`.
 *
 * @throws AdapterNotFoundError with what to install on this platform.
 */
export async function openDevice(options: OpenDeviceOptions = {}): Promise<Gpu> {
  checkConfig("openDevice", options, [
    "gpu",
    "adapter",
    "device",
    "powerPreference",
    "memoryBudget",
    "poolLimit",
    "features",
    "fillWithNaN",
    "onNotice",
  ]);
  checkOptions(options);
  guardSingleCopy();
  const { device, info } = options.device
    ? { device: options.device, info: (options.device as { adapterInfo?: GPUAdapterInfo }).adapterInfo }
    : await requestDevice(options);
  const description = describe(info);
  const has = (name: string): boolean => (device.features as ReadonlySet<string>).has(name);
  const sizes = info as { subgroupMinSize?: number; subgroupMaxSize?: number } | undefined;
  const features: GpuFeatures = {
    f16: has("shader-f16") && options.features?.f16 !== false,
    subgroups: has("subgroups") && options.features?.subgroups !== false,
    timestampQuery: has("timestamp-query"),
    subgroupMinSize: sizes?.subgroupMinSize ?? 4,
    subgroupMaxSize: sizes?.subgroupMaxSize ?? 128,
  };
  if (description.software) {
    options.onNotice?.(
      `${description.name} renders on the CPU; expect a small part of a GPU's speed. Install a GPU driver if this machine has a GPU`,
    );
  }
  const threads = description.software && !options.device && !options.adapter ? compileThreads() : 1;
  const open = async (): Promise<GPUDevice> => (await requestDevice(options)).device;
  return new Gpu(device, description, features, {
    lanes: threads > 1 ? new CompileLanes(device, threads, open) : undefined,
    memoryBudget: options.memoryBudget ?? Infinity,
    poolLimit: options.poolLimit ?? 256 * 1024 * 1024,
    fillWithNaN: options.fillWithNaN ?? false,
  });
}

async function requestDevice(
  options: OpenDeviceOptions,
): Promise<{ device: GPUDevice; info: GPUAdapterInfo | undefined }> {
  let adapter = options.adapter ?? null;
  if (!adapter) {
    let gpu = options.gpu;
    try {
      gpu ??= await provideGpu();
    } catch (cause) {
      throw new AdapterNotFoundError("openDevice", cause instanceof Error ? cause.message : String(cause), {
        cause,
      });
    }
    adapter = gpu
      ? await gpu.requestAdapter({ powerPreference: options.powerPreference ?? "high-performance" })
      : null;
  }
  if (!adapter) throw new AdapterNotFoundError("openDevice", adapterAdvice());
  const found = adapter;
  try {
    const device = await found.requestDevice({
      label: "x",
      requiredFeatures: OPTIONAL.filter((feature) => found.features.has(feature)),
      requiredLimits: fullLimits(found),
    });
    return { device, info: found.info };
  } catch (cause) {
    throw new AdapterNotFoundError(
      "openDevice",
      `the adapter ${describe(found.info).name} refused a device: ${cause instanceof Error ? cause.message : String(cause)}`,
      { cause },
    );
  }
}
