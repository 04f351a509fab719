import { describe, expect, it } from "vitest";
import {
  ConfigError,
  defineKernel,
  DTypeError,
  e,
  elementwise,
  FormatError,
  GpuValidationError,
  KernelsError,
  openDevice,
  OutOfMemoryError,
  ShapeError,
} from "./index.js";
import { useGpu } from "./test-support.js";

const device = useGpu();
type Loose = (...given: unknown[]) => never;
const failure = async (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => undefined,
    (error: unknown) => error,
  );

describe("host data", () => {
  it("without a shape have one axis", async () => {
    const x = device.gpu.tensor([1, 2, 3]);
    expect([x.shape, [...(await x.read())]]).toEqual([[3], [1, 2, 3]]);
    expect(device.gpu.tensor(new Float32Array(0)).shape).toEqual([0]);
  });

  it.each<[string, unknown[], abstract new (...args: never[]) => KernelsError, RegExp]>([
    [
      "a hole",
      [[1, undefined, 3], [3]],
      DTypeError,
      /element 1 is undefined; every element must be a number/,
    ],
    ["null", [[null], [1]], DTypeError, /element 0 is null/],
    ["text", [["1", "2"], [2]], DTypeError, /element 0 is "1"/],
    ["bigints", [[1n], [1]], DTypeError, /element 0 is 1n/],
    ["BigInt64Array", [new BigInt64Array(2), [2]], DTypeError, /BigInt64Array; it must hold numbers/],
    [
      "rows",
      [
        [
          [1, 2],
          [3, 4],
        ],
        [2, 2],
      ],
      DTypeError,
      /element 0 is an array; .*flat/,
    ],
    [
      "a fraction",
      [[1, 1.5], [2], "i32"],
      DTypeError,
      /element 1 is 1.5; i32 takes integers in -2147483648../,
    ],
    ["a large integer", [[1, 2 ** 40, -1], [3], "i32"], DTypeError, /element 1 is 1099511627776/],
    ["a negative u32", [[-1], [1], "u32"], DTypeError, /element 0 is -1; u32/],
    ["NaN as i32", [[NaN], [1], "i32"], DTypeError, /element 0 is NaN/],
    ["fractions of a typed array", [new Float32Array([2.5]), [1], "u32"], DTypeError, /element 0 is 2.5/],
    ["above f32", [[1e39], [1]], DTypeError, /element 0 is 1e\+39; the largest finite f32/],
    ["above f32, typed", [new Float64Array([-1e300]), [1]], DTypeError, /element 0 is -1e\+300/],
    ["a number", [5, [1]], ConfigError, /data is 5; it must be an array/],
    ["nothing", [], ConfigError, /data is undefined/],
    ["a string", ["123", [3]], ConfigError, /data is "123"/],
    ["bytes", [new ArrayBuffer(8), [2]], ConfigError, /fromBytes/],
    ["a shape that is a number", [[1, 2], 2], ShapeError, /shape is 2; it must be an array/],
    ["a dtype in place of the shape", [[1, 2], "i32"], ShapeError, /shape is "i32"/],
    ["a shape that does not fit", [[1, 2], [3]], ShapeError, /given 2 numbers; shape \[3\] takes 3/],
    ["a dtype that is not one", [[1], [1], 7], DTypeError, /dtype is 7/],
  ])("%s is refused", (_, given, kind, message) => {
    const make = (): never => (device.gpu.tensor.bind(device.gpu) as unknown as Loose)(...given);
    expect(make).toThrow(kind);
    expect(make).toThrow(message);
  });

  it("infinity and NaN are numbers of a floating dtype; write and full check as tensor does", async () => {
    const { gpu } = device;
    const x = gpu.tensor([NaN, Infinity, -Infinity], [3]);
    expect([...(await x.read())]).toEqual([NaN, Infinity, -Infinity]);
    const write = x.write.bind(x) as unknown as Loose;
    expect(() => write([1, undefined, 2])).toThrow(/write: element 1 is undefined/);
    expect(() => write(7)).toThrow(ConfigError);
    const full = gpu.full.bind(gpu) as unknown as Loose;
    expect(() => full([2])).toThrow(/full: value is undefined/);
    expect(() => full([2], 1.5, "i32")).toThrow(DTypeError);
    expect(() => full(2, 1)).toThrow(ShapeError);
  });
});

describe("arguments of a wrong kind", () => {
  it("of a device's functions are typed errors", async () => {
    const { gpu } = device;
    const x = gpu.zeros([4]);
    const loose = (name: keyof typeof gpu): Loose => (gpu[name] as Loose).bind(gpu);
    for (const [call, rule] of [
      [() => loose("zeros")(3), /shape is 3/],
      [() => loose("empty")(), /shape is undefined/],
      [
        () => loose("fromBytes")([1, 2], [2], "f32"),
        /fromBytes: bytes are \[1, 2\]; they must be a Uint8Array/,
      ],
      [() => loose("scope")(), /fn is undefined; it must be a function/],
      [() => loose("record")(x), /fn is a tensor; it must be a function/],
      [() => loose("keep")([x]), /tensor is an array; it must be a tensor/],
      [() => loose("copy")(x, [1]), /copy: to is an array/],
      [() => loose("copy")(x, x, { offset: 1 }), /unknown key "offset"/],
      [() => loose("copy")(x, gpu.zeros([4], "i32")), /from is f32, to is i32/],
      [() => loose("run")({}, {}), /must be what defineKernel returns/],
      [() => (x.reshape as unknown as Loose).call(x, 2, 2), /reshape: shape is 2/],
    ] as const) {
      expect(call).toThrow(KernelsError);
      expect(call).toThrow(rule);
    }
    for (const [call, rule] of [
      [() => loose("warmup")(), /warmup: fn is undefined/],
      [() => loose("warmup")(() => Promise.resolve()), /warmup: the function returned a promise/],
      [() => loose("profile")(3), /profile: fn is 3/],
    ] as const) {
      const error = await failure(call() as Promise<unknown>);
      expect(KernelsError.isInstance(error), String(error)).toBe(true);
      expect(String(error)).toMatch(rule);
    }
  });

  it("of openDevice are typed errors, also inside features", async () => {
    for (const [options, rule] of [
      [{ features: { fp16: true } }, /unknown key "fp16"; did you mean "f16"/],
      [{ features: { f16: 1 } }, /features.f16 is 1; it must be true or false/],
      [{ memoryBudget: "1GB" }, /memoryBudget is "1GB"/],
      [{ memoryBudget: -1 }, /memoryBudget is -1/],
      [{ poolLimit: NaN }, /poolLimit is NaN/],
      [{ powerPreference: "high" }, /powerPreference is "high"/],
      [{ fillWithNaN: "yes" }, /fillWithNaN is "yes"/],
      [{ onNotice: 3 }, /onNotice is 3; it must be a function/],
      [{ gpu: 3 }, /gpu is 3; it must be an object/],
      [null, /null; it must be an object/],
    ] as const) {
      const error = await failure(openDevice(options as never));
      expect(ConfigError.isInstance(error), String(error)).toBe(true);
      expect(String(error)).toMatch(rule);
    }
  });
});

describe("kernels of one's own", () => {
  const kernel = defineKernel({
    name: "typed",
    bindings: { out: "write f32" },
    params: { count: "u32", shift: "i32", by: "f32" },
    wgsl: () =>
      "@compute @workgroup_size(1) fn main() { out[0] = f32(params.count) + f32(params.shift) * params.by; }",
  });

  it("take parameters that their types hold, and no others", async () => {
    const { gpu } = device;
    const out = gpu.zeros([1]);
    const run = (params: object, rest: object = {}): void => {
      gpu.run(kernel, { bindings: { out }, params: { count: 1, shift: -2, by: 3, ...params }, ...rest });
    };
    run({});
    expect(await out.item()).toBe(-5);
    for (const [params, rule] of [
      [{ count: 1.5 }, /typed: parameter count is 1.5; u32 takes integers/],
      [{ count: -1 }, /parameter count is -1/],
      [{ shift: 2 ** 31 }, /parameter shift is 2147483648/],
      [{ by: 1e40 }, /parameter by is 1e\+40, which is infinite as an f32/],
      [{ by: "3" }, /parameter by is "3"/],
    ] as const) {
      expect(() => {
        run(params);
      }).toThrow(ConfigError);
      expect(() => {
        run(params);
      }).toThrow(rule);
    }
    expect(() => {
      run({}, { workgroup: [1] });
    }).toThrow(/did you mean "workgroups"/);
    expect(() => {
      run({}, { workgroups: 4 });
    }).toThrow(/workgroups are 4/);
    expect(() => {
      run({}, { workgroups: [-1] });
    }).toThrow(/workgroups are \[-1, 1, 1\]/);
    expect(() => (defineKernel as unknown as Loose)({ name: "x", binding: {}, wgsl: () => "" })).toThrow(
      /did you mean "bindings"/,
    );
    expect(() => (defineKernel as unknown as Loose)({ name: "x", bindings: {}, wgsl: "text" })).toThrow(
      /wgsl is "text"; it must be a function/,
    );
  });

  it("that are refused are named with a line and the lines around, without the whole variant; the next run throws", async () => {
    const { gpu } = device;
    const broken = defineKernel<{ readonly table: string }>({
      name: "unknownName",
      bindings: { out: "write f32" },
      wgsl: () => `${"// text\n".repeat(50)}@compute @workgroup_size(1) fn main() { out[0] = nothing; }`,
    });
    const out = gpu.zeros([1]);
    const run = (): void => {
      gpu.run(broken, { variant: { table: "v".repeat(5000) }, bindings: { out } });
    };
    run();
    const error = await failure(out.read());
    expect(GpuValidationError.isInstance(error)).toBe(true);
    const text = String(error);
    expect(text).toMatch(/unknownName: .*line 52:\d+: .*nothing/);
    expect(text.length).toBeLessThan(800);
    expect(run).toThrow(/unknownName/);
    expect(await out.item()).toBe(0);
  });

  it("elementwise refuses JavaScript's operators, and what is not an expression, before any kernel", () => {
    for (const [define, rule] of [
      [(x) => ((x as unknown as number) > 0 ? x : e.neg(x)), /e\.select\(e\.gt\(x, 0\), a, b\) for x > 0/],
      [(x) => ((x as unknown as number) * 2) as never, /e\.mul\(x, 2\)/],
      [(x) => Math.exp(x as never) as never, /e\.exp\(x\)/],
      [(x) => ((x as unknown as string) + "!") as never, /operator or function of JavaScript/],
      [() => undefined as never, /its definition returned undefined/],
      [(x) => e.add(x, "1" as never), /an operand is "1"/],
      [() => e.add(device.gpu.zeros([1]) as never, 1), /an operand is a tensor/],
    ] as const satisfies readonly (readonly [Parameters<typeof elementwise>[2], RegExp])[]) {
      expect(() => elementwise("mine", ["x"], define)).toThrow(ConfigError);
      expect(() => elementwise("mine", ["x"], define)).toThrow(rule);
    }
  });
});

describe("errors", () => {
  it("have names that do not come from the classes' own, which minifiers change", () => {
    for (const [kind, name] of [
      [ConfigError, "ConfigError"],
      [ShapeError, "ShapeError"],
      [DTypeError, "DTypeError"],
      [FormatError, "FormatError"],
    ] as const) {
      const Renamed = class a extends (kind as typeof KernelsError) {};
      const error = new Renamed("op", "text");
      expect([error.name, error.toString()]).toEqual([name, `${name}: op: text`]);
      expect(error.stack).toContain(name);
    }
    expect(new OutOfMemoryError("op", "text", 1).name).toBe("OutOfMemoryError");
  });

  it("name the buffer that other code destroyed, since it drops a whole batch", async () => {
    const gpu = await openDevice();
    try {
      const scale = elementwise("scaleByTwo", ["x"], (x) => e.mul(x, 2));
      const [x, y] = [gpu.tensor([1, 2]), gpu.tensor([3, 4])];
      x.buffer.destroy();
      const good = scale(y);
      scale(x);
      const error = await failure(good.read());
      expect(GpuValidationError.isInstance(error)).toBe(true);
      expect(String(error)).toMatch(/dropped.*destroyed in0 of scaleByTwo/);
      expect([...(await scale(y).read())]).toEqual([6, 8]);
    } finally {
      gpu.destroy();
    }
  });
});
