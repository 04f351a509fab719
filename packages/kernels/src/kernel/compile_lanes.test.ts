import { randomInt } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { CompileLanes, type ShaderJob } from "./compile_lanes.js";
import { SHADER_STAGE_COMPUTE } from "../base/constants.js";
import { openDevice } from "../device/device.js";
import { provideGpu } from "../device/gpu.node.js";

/** A text that no cache holds, and that takes a CPU's compiler a while. */
function text(): string {
  const steps = Array.from(
    { length: 40 },
    (_, i) => `x = fma(x, exp(x.yzwx), vec4f(${String(randomInt(2 ** 30))}.${String(i)}));`,
  );
  return `@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> b: array<vec4f>;
@compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3u) {
  var x = a[id.x];
  ${steps.join("\n  ")}
  b[id.x] = x;
}`;
}

const open = async (): Promise<GPUDevice> => (await (await provideGpu())!.requestAdapter())!.requestDevice();

let device: GPUDevice;
let software: boolean;

beforeAll(async () => {
  const gpu = await openDevice();
  ({ software } = gpu.info);
  gpu.destroy();
  device = await open();
});
afterAll(() => {
  device.destroy();
});

function job(code: string): ShaderJob {
  const entries: GPUBindGroupLayoutEntry[] = [
    { binding: 0, visibility: SHADER_STAGE_COMPUTE, buffer: { type: "read-only-storage" } },
    { binding: 1, visibility: SHADER_STAGE_COMPUTE, buffer: { type: "storage" } },
  ];
  const layout = device.createBindGroupLayout({ entries });
  const pipeline = device.createComputePipelineAsync({
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module: device.createShaderModule({ code }), entryPoint: "main" },
  });
  pipeline.catch(() => undefined);
  return { label: "test", code, entries, layout, pipeline };
}

/** Lanes that count what they open, and the devices that are open still. */
function counted(threads: number, opener: () => Promise<GPUDevice> = open) {
  const count = { opened: 0, closed: 0 };
  const lanes = new CompileLanes(device, threads, async () => {
    const helper = await opener();
    count.opened++;
    void helper.lost.then(() => count.closed++);
    return helper;
  });
  return {
    lanes,
    count,
    compile: (codes: readonly string[]) => Promise.all(codes.map((c) => lanes.compile(job(c)))),
  };
}

describe("CompileLanes", () => {
  it("opens devices for shaders that no cache holds, one for each further thread, and closes them", async ({
    skip,
  }) => {
    skip(!software, "a GPU's driver compiles when the pipeline is made");
    const { count, compile } = counted(3);
    const codes = Array.from({ length: 6 }, text);
    await compile(codes);
    expect(count.opened).toBe(2);
    await expect.poll(() => count.closed).toBe(2);
    // The cache has them now.
    await compile(codes);
    expect(count.opened).toBe(2);
  });

  it("opens none for one shader, and none with one thread", async () => {
    const one = counted(2);
    await one.compile([text()]);
    expect(one.count.opened).toBe(0);
    const single = counted(1);
    await single.compile([text(), text()]);
    expect(single.count.opened).toBe(0);
  });

  it("goes on where no further device can be opened", async () => {
    const { compile } = counted(2, () => Promise.reject(new Error("no more")));
    await expect(compile([text(), text(), text()])).resolves.toHaveLength(3);
  });

  it("leaves a refused shader to the pipeline's own error, and compiles the others", async () => {
    const { compile } = counted(2);
    device.pushErrorScope("validation");
    await compile([
      "this is no shader at all, and longer than any of the others".repeat(100),
      text(),
      text(),
    ]);
    expect(await device.popErrorScope()).not.toBeNull();
  });

  it("ends when its device is lost", async () => {
    const own = await open();
    const before = device;
    device = own;
    try {
      const { compile } = counted(2);
      const done = compile([text(), text(), text()]);
      own.destroy();
      await done;
    } finally {
      device = before;
    }
  });
});
