import { afterEach, describe, expect, it } from "vitest";
import {
  add,
  AdapterNotFoundError,
  cast,
  ConfigError,
  DeviceLostError,
  DTypeError,
  DuplicatePackageError,
  KernelsError,
  openDevice,
  OutOfMemoryError,
  type Gpu,
} from "../index.js";

let open: Gpu[] = [];
async function device(...args: Parameters<typeof openDevice>): Promise<Gpu> {
  const gpu = await openDevice(...args);
  open.push(gpu);
  return gpu;
}
afterEach(() => {
  for (const gpu of open) gpu.destroy();
  open = [];
});

const failure = async (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );

describe("openDevice", () => {
  it("describes the adapter and says once when it is a software renderer", async () => {
    const notices: string[] = [];
    const gpu = await device({ onNotice: (text) => notices.push(text) });
    expect(gpu.info.name.length).toBeGreaterThan(0);
    expect(notices.length).toBe(gpu.info.software ? 1 : 0);
    expect(gpu.limits.maxStorageBuffersPerShaderStage).toBeGreaterThanOrEqual(8);
  });

  it("leaves features unused on request", async () => {
    const gpu = await device({ features: { f16: false, subgroups: false } });
    expect([gpu.features.f16, gpu.features.subgroups]).toEqual([false, false]);
  });

  it("refuses to compute in half precision where the device was opened without it, and stores it", async () => {
    const gpu = await device({ features: { f16: false } });
    const rule = /: dtype is f16; this device has no shader-f16, .*use f32/;
    for (const make of [
      () => gpu.zeros([2], "f16"),
      () => gpu.full([2], 1, "f16"),
      () => gpu.empty([2], "f16"),
      () => cast(gpu.zeros([2]), "f16"),
    ]) {
      expect(make).toThrow(DTypeError);
      expect(make).toThrow(rule);
    }
    const stored = gpu.tensor([1, 2], [2], "f16");
    expect([...(await stored.read())]).toEqual([1, 2]);
    expect(() => add(stored, 1)).toThrow(/only stored/);
    expect(() => gpu.zeros([2], "f64" as "f32")).toThrow(
      /dtype is "f64"; it must be one of f32, f16, i32, u32/,
    );
  });

  it("takes the caller's device", async () => {
    const first = await device();
    const second = await device({ device: first.device });
    expect([...(await add(second.tensor([1, 2], [2]), 1).read())]).toEqual([2, 3]);
  });

  it("refuses unknown options, naming the nearest", async () => {
    const error = await failure(openDevice({ memoryBudgt: 1 } as object));
    expect(ConfigError.isInstance(error)).toBe(true);
    expect(String(error)).toContain('did you mean "memoryBudget"?');
  });

  it("says what to install where there is no adapter", async () => {
    const none = { requestAdapter: () => Promise.resolve(null) } as unknown as GPU;
    const error = await failure(openDevice({ gpu: none }));
    expect(AdapterNotFoundError.isInstance(error)).toBe(true);
    expect(String(error)).toMatch(/driver|browser|device/);
  });

  it("refuses a second copy of the package", async () => {
    const key = Symbol.for("x.kernels.loaded");
    const host = globalThis as Record<symbol, unknown>;
    await device();
    const real = host[key];
    host[key] = { version: "0.0.1", abi: 0, owner: {} };
    try {
      const error = await failure(openDevice());
      expect(DuplicatePackageError.isInstance(error)).toBe(true);
      expect(String(error)).toContain("0.0.1");
    } finally {
      host[key] = real;
    }
  });
});

describe("a lost device", () => {
  it("surfaces as a typed error within two seconds, and a new one opens", async () => {
    const gpu = await device();
    const x = gpu.tensor([1, 2, 3], [3]);
    await x.read();
    const started = performance.now();
    const pending = failure(add(x, 1).read());
    gpu.device.destroy();
    const error = await pending;
    // The read may have been done before the device went; the next one cannot.
    if (error !== undefined) expect(DeviceLostError.isInstance(error)).toBe(true);
    expect(DeviceLostError.isInstance(await failure(x.read()))).toBe(true);
    expect(DeviceLostError.isInstance(await gpu.lost)).toBe(true);
    expect(performance.now() - started).toBeLessThan(2000);
    expect(() => gpu.zeros([1])).toThrow(DeviceLostError);
    const again = await device();
    expect([...(await add(again.tensor([1], [1]), 1).read())]).toEqual([2]);
  });

  it("wakes whoever waits for a pipeline", async () => {
    const gpu = await device();
    const x = gpu.tensor([1], [1]);
    const waiting = failure(add(x, 2).read());
    gpu.destroy();
    expect(DeviceLostError.isInstance(await waiting)).toBe(true);
  });
});

describe("errors", () => {
  it("carry a code, the op's name, and are recognised by brand", () => {
    const error = new OutOfMemoryError("matmul", "too big", 5);
    expect([error.code, error.who, error.message, error.requested]).toEqual([
      "OUT_OF_MEMORY",
      "matmul",
      "matmul: too big",
      5,
    ]);
    expect(KernelsError.isInstance(error)).toBe(true);
    expect(OutOfMemoryError.isInstance(error)).toBe(true);
    expect(DeviceLostError.isInstance(error)).toBe(false);
    expect(KernelsError.isInstance(new Error("x"))).toBe(false);
    expect(KernelsError.isInstance(null)).toBe(false);
  });
});
