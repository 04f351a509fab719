import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  add,
  ConfigError,
  defineKernel,
  DisposedError,
  GpuValidationError,
  mul,
  openDevice,
  OutOfMemoryError,
  ShapeError,
  silu,
  type Gpu,
  type Tensor,
} from "../index.js";

let gpu: Gpu;
beforeAll(async () => {
  gpu = await openDevice({ fillWithNaN: true });
});
afterAll(() => {
  gpu.destroy();
});

const failure = async (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );

const list = async (t: Tensor): Promise<number[]> => [...(await t.read())];

describe("tensors", () => {
  it("hold what they are given", async () => {
    expect(await list(gpu.tensor([1.5, -2], [2]))).toEqual([1.5, -2]);
    expect(await list(gpu.tensor([1, -2, 3], [3], "i32"))).toEqual([1, -2, 3]);
    expect(await list(gpu.tensor([1, 4294967295], [2], "u32"))).toEqual([1, 4294967295]);
    expect(await list(gpu.full([2, 2], 7, "i32"))).toEqual([7, 7, 7, 7]);
    expect(await list(gpu.zeros([3]))).toEqual([0, 0, 0]);
    expect(await gpu.tensor([4], []).item()).toBe(4);
    expect(await list(gpu.zeros([0, 5]))).toEqual([]);
  });

  it("hold half precision, also as a checkpoint's bytes", async ({ skip }) => {
    if (!gpu.features.f16) skip("the adapter has no shader-f16");
    expect(await list(gpu.tensor([1, 0.333251953125, 65504], [3], "f16"))).toEqual([
      1, 0.333251953125, 65504,
    ]);
    const bytes = new Uint8Array([0x00, 0x3c, 0x00, 0xc0, 0x00, 0x38]);
    expect(await list(gpu.fromBytes(bytes, [3], "f16"))).toEqual([1, -2, 0.5]);
    expect(() => gpu.fromBytes(bytes, [4], "f16")).toThrow(ShapeError);
  });

  it("are NaN before they are written, in test mode", async () => {
    expect((await list(gpu.empty([5]))).every(Number.isNaN)).toBe(true);
    const recycled = gpu.tensor([1, 2, 3], [3]);
    recycled.dispose();
    expect((await list(gpu.empty([3]))).every(Number.isNaN)).toBe(true);
  });

  it("hold what an array held when it was given, whatever becomes of the array", async () => {
    const data = Float32Array.from([1, 2, 3, 4]);
    const [made, busy] = [gpu.tensor(data), gpu.zeros([4])];
    // A write that waits behind a queued command, and one of a recording.
    gpu.copy(made, busy);
    busy.write(data);
    const recording = gpu.record(() => add(gpu.tensor(data), 0));
    data.fill(9);
    recording.replay();
    for (const tensor of [made, busy, recording.outputs])
      expect(Array.from(await tensor.read())).toEqual([1, 2, 3, 4]);
    recording.dispose();
    for (const tensor of [made, busy]) tensor.dispose();
  });

  it("are written in the order of the commands", async () => {
    const x = gpu.tensor([1], [1]);
    const first = add(x, 1);
    x.write([10]);
    const second = add(x, 1);
    x.write([20]);
    expect([await first.item(), await second.item(), await x.item()]).toEqual([2, 11, 20]);
  });

  it("refuse wrong sizes, shapes and use after they are freed", async () => {
    expect(() => gpu.tensor([1, 2], [3])).toThrow("tensor: given 2 numbers; shape [3] takes 3");
    expect(() => gpu.zeros([-1])).toThrow(ShapeError);
    expect(() => gpu.zeros([2], "f64" as "f32")).toThrow(/f64/);
    const x = gpu.zeros([4]);
    expect(() => x.reshape([3])).toThrow(ShapeError);
    expect(() => x.reshape([-1, 3])).toThrow(ShapeError);
    expect(() => {
      x.write([1]);
    }).toThrow(ShapeError);
    x.dispose();
    x.dispose();
    expect(DisposedError.isInstance(await failure(x.read()))).toBe(true);
    expect(() => add(x, 1)).toThrow(DisposedError);
  });

  it("copy between each other", async () => {
    const [from, to] = [gpu.tensor([1, 2, 3, 4], [4]), gpu.zeros([6])];
    gpu.copy(from, to, { fromOffset: 1, toOffset: 3, length: 2 });
    expect(await list(to)).toEqual([0, 0, 0, 2, 3, 0]);
    expect(() => {
      gpu.copy(from, to, { toOffset: 4 });
    }).toThrow(ShapeError);
  });
});

describe("scopes and memory", () => {
  it("free what was made inside, except what is returned, however nested", async () => {
    const before = gpu.memory();
    const { kept, more } = gpu.scope(() => {
      const x = gpu.tensor([1, 2], [2]);
      const inner = gpu.scope(() => [add(x, 1), new Map([["m", mul(x, 5)]])] as const);
      return { kept: inner[0], more: [inner[1]] };
    });
    expect(gpu.memory().liveBuffers).toBe(before.liveBuffers + 2);
    expect(await list(kept)).toEqual([2, 3]);
    kept.dispose();
    more[0]?.get("m")?.dispose();
    expect(gpu.memory().liveBuffers).toBe(before.liveBuffers);
  });

  it("free when the function throws, and refuse a promise", () => {
    const before = gpu.memory().liveBuffers;
    expect(() =>
      gpu.scope(() => {
        gpu.zeros([100]);
        throw new Error("stop");
      }),
    ).toThrow("stop");
    expect(() => gpu.scope(() => Promise.resolve(gpu.zeros([100])))).toThrow(ConfigError);
    expect(gpu.memory().liveBuffers).toBe(before);
  });

  it("keep what the caller takes over", async () => {
    const kept = gpu.scope(() => {
      const t = gpu.keep(gpu.tensor([3], [1]));
      return { read: t };
    }).read;
    expect(await list(kept)).toEqual([3]);
    kept.dispose();
  });

  it("reuse freed buffers and give them back on trim", async () => {
    gpu.trim();
    gpu.scope(() => silu(gpu.zeros([5000])));
    await gpu.sync();
    const pooled = gpu.memory().pooledBytes;
    for (let i = 0; i < 50; i++) gpu.scope(() => void silu(gpu.zeros([5000])));
    await gpu.sync();
    expect(gpu.memory().pooledBytes).toBeLessThanOrEqual(pooled + 2 * 20480);
    gpu.trim();
    expect(gpu.memory().pooledBytes).toBe(0);
  });

  it("a full pool lets the longest unused buffers go, so that later sizes are reused too", async () => {
    const small = await openDevice({ poolLimit: 1 << 20 });
    try {
      for (const t of [small.zeros([1 << 16]), small.zeros([1 << 16]), small.zeros([1 << 17])]) t.dispose();
      await small.sync();
      expect(small.memory()).toMatchObject({ pooledBuffers: 3, pooledBytes: 1 << 20 });
      small.zeros([1 << 15]).dispose();
      await small.sync();
      // One of the first two went.
      expect(small.memory()).toMatchObject({ pooledBuffers: 3, pooledBytes: (1 << 20) - (1 << 17) });
      const again = small.zeros([1 << 15]);
      expect(small.memory()).toMatchObject({ pooledBuffers: 2, liveBytes: 1 << 17 });
      again.dispose();
      small.zeros([1 << 19]).dispose(); // larger than the pool
      await small.sync();
      expect(small.memory().pooledBytes).toBeLessThanOrEqual(1 << 20);
    } finally {
      small.destroy();
    }
  });

  it("stop at the budget with a typed error, and go on after memory is freed", async () => {
    const small = await openDevice({ memoryBudget: 1 << 20 });
    try {
      const half = small.zeros([1 << 17]);
      const error = await failure(Promise.resolve().then(() => small.zeros([1 << 18])));
      expect(OutOfMemoryError.isInstance(error)).toBe(true);
      expect(String(error)).toMatch(/budget is 1048576/);
      half.dispose();
      expect((await small.zeros([1 << 17]).read()).length).toBe(1 << 17);
    } finally {
      small.destroy();
    }
  });

  it("refuse a buffer above the device's limit", () => {
    expect(() => gpu.empty([gpu.limits.maxBufferSize])).toThrow(OutOfMemoryError);
  });
});

interface ScaleVariant {
  readonly by: number;
}

const scale = defineKernel({
  name: "testScale",
  bindings: { x: "read f32", out: "write f32" },
  params: { count: "u32", offset: "f32", weights: "vec4<f32>" },
  wgsl: (v: ScaleVariant) => `
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.count) { return; }
  out[id.x] = x[id.x] * ${v.by.toFixed(1)} + params.offset + params.weights.y;
}`,
});

describe("kernels", () => {
  it("run with parameters, variants and slices", async () => {
    const x = gpu.tensor([1, 2, 3], [3]);
    const out = gpu.empty([3]);
    gpu.run(scale, {
      variant: { by: 3 },
      bindings: { x, out },
      params: { count: 3, offset: 0.5, weights: [0, 1, 0, 0] },
      workgroups: [1],
    });
    expect(await list(out)).toEqual([4.5, 7.5, 10.5]);
    const step = gpu.limits.minStorageBufferOffsetAlignment / 4;
    const long = gpu.tensor(
      Float32Array.from({ length: step + 3 }, (_, i) => i),
      [step + 3],
    );
    const call = {
      variant: { by: 3 },
      params: { count: 3, offset: 0, weights: [0, 0, 0, 0] },
      workgroups: [1] as const,
    };
    gpu.run(scale, { ...call, bindings: { x: { tensor: long, offset: step, length: 3 }, out } });
    expect(await list(out)).toEqual([3 * step, 3 * step + 3, 3 * step + 6]);
    expect(() => {
      gpu.run(scale, { ...call, bindings: { x: { tensor: long, offset: 1, length: 3 }, out } });
    }).toThrow(/multiple of/);
  });

  it("refuse a missing binding, a missing parameter, an alias and too many groups", () => {
    const [x, out] = [gpu.zeros([4]), gpu.zeros([4])];
    const params = { count: 4, offset: 0, weights: [0, 0, 0, 0] };
    const run = (call: object): void => {
      gpu.run(scale, { variant: { by: 1 }, bindings: { x, out }, params, workgroups: [1], ...call });
    };
    expect(() => {
      run({ bindings: { x } });
    }).toThrow("testScale: binding out is missing");
    expect(() => {
      run({ params: { count: 4 } });
    }).toThrow(/testScale: parameter weights/);
    expect(() => {
      run({ bindings: { x, out: x } });
    }).toThrow("testScale: bindings x and out are the same buffer and one of them is written");
    expect(() => {
      run({ workgroups: [70000] });
    }).toThrow(/at most/);
  });

  it("report a shader that is refused, with its name and line, once", async () => {
    const broken = defineKernel({
      name: "broken",
      bindings: { x: "write f32" },
      wgsl: () => "@compute @workgroup_size(1) fn main() { x[0] = nothing; }",
    });
    const x = gpu.tensor([1], [1]);
    gpu.run(broken, { bindings: { x }, workgroups: [1] });
    const error = await failure(x.read());
    expect(GpuValidationError.isInstance(error)).toBe(true);
    expect(String(error)).toMatch(/broken: .*nothing/);
    expect(await list(x)).toEqual([1]);
  });

  it("pass more parameters in a batch than the arena holds", async () => {
    const fresh = await openDevice();
    try {
      const x = fresh.tensor([0], [1]);
      const n = 5000; // all queued while the pipeline is compiled, 16 bytes and more each
      const y = fresh.scope(() => {
        let value: Tensor = x;
        for (let i = 0; i < n; i++) value = add(value, i);
        return value;
      });
      expect(await y.item()).toBe((n * (n - 1)) / 2);
    } finally {
      fresh.destroy();
    }
  });
});

describe("whole steps", () => {
  it("replay a recording with new inputs", async () => {
    const x = gpu.tensor([1, 2], [2]);
    const state = gpu.tensor([0, 0], [2]);
    const recording = gpu.record(() => {
      const y = mul(add(x, 1), 2);
      gpu.copy(add(state, y), state);
      return y;
    });
    expect(await list(recording.outputs)).toEqual([4, 6]);
    x.write([10, 20]);
    recording.replay();
    expect(await list(recording.outputs)).toEqual([22, 42]);
    expect(await list(state)).toEqual([26, 48]);
    const live = gpu.memory().liveBytes;
    for (let i = 0; i < 300; i++) recording.replay();
    await gpu.sync();
    expect(gpu.memory().liveBytes).toBe(live);
    expect(await list(state)).toEqual([26 + 300 * 22, 48 + 300 * 42]);
    recording.dispose();
    expect(() => {
      recording.replay();
    }).toThrow(/after dispose/);
  });

  it("keeps other work away from a recording's buffers", async () => {
    const x = gpu.tensor([1], [1]);
    const before = gpu.memory().liveBuffers;
    const recording = gpu.record(() => add(add(add(x, 1), 1), 1));
    const other = gpu.full([1], 50);
    recording.replay();
    expect(await other.item()).toBe(50);
    expect(await recording.outputs.item()).toBe(4);
    recording.dispose();
    other.dispose();
    expect(gpu.memory().liveBuffers).toBe(before);
  });

  it("warm up without running", async () => {
    const fresh = await openDevice();
    try {
      const x = fresh.tensor([1, 2], [2]);
      const progress: string[] = [];
      await fresh.warmup(
        () => silu(add(x, 1)),
        (done, all) => progress.push(`${String(done)}/${String(all)}`),
      );
      expect(progress.at(-1)).toBe("2/2");
      expect(fresh.counters().dispatches).toBe(0);
    } finally {
      fresh.destroy();
    }
  });

  it("profile by kernel", async (context) => {
    if (!gpu.features.timestampQuery) context.skip("the adapter has no timestamp queries");
    const x = gpu.zeros([1 << 16]);
    const times = await gpu.profile(() => {
      for (let i = 0; i < 3; i++) silu(x);
    });
    expect(times.find((t) => t.kernel === "silu")?.calls).toBe(3);
  });

  it("profiles what runs before a write, which ends a submit", async (context) => {
    if (!gpu.features.timestampQuery) context.skip("the adapter has no timestamp queries");
    const x = gpu.zeros([64]);
    const times = await gpu.profile(() => {
      silu(x);
      x.write(new Float32Array(64));
      silu(x);
      x.write(new Float32Array(64));
    });
    expect(times.map(({ kernel, calls }) => [kernel, calls])).toEqual([["silu", 2]]);
  });
});
