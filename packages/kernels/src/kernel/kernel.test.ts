import { describe, expect, expectTypeOf, it } from "vitest";
import { ConfigError } from "../base/errors.js";
import { flatGrid, flatMain } from "./flat_grid.js";
import { defineKernel } from "./kernel.js";
import { useGpu } from "../test-support.js";

const addRows = defineKernel({
  name: "addRows",
  bindings: { x: "read f32", bias: "read f32", out: "write f32" },
  params: { count: "u32", width: "u32" },
  wgsl: (_, { bindings: { x, bias, out }, params }) => `${flatMain("i", params.count)}
  ${out}[i] = ${x}[i] + ${bias}[i % ${params.width}];
}`,
});

const scaled = defineKernel({
  name: "scaled",
  bindings: (v: { readonly scale: boolean }) => ({
    x: "read f32",
    ...(v.scale ? { scale: "read f32" } : {}),
    out: "write f32",
  }),
  params: { count: "u32" },
  wgsl: (v, { params }) => `${flatMain("i", params.count)}
  out[i] = x[i]${v.scale ? " * scale[0]" : ""};
}`,
});

describe("names of bindings and parameters", () => {
  const device = useGpu();

  it("are checked by the compiler", async () => {
    const { gpu } = device;
    const [x, bias, out] = [gpu.full([4], 1), gpu.tensor([1, 2], [2]), gpu.empty([4], "f32")];
    gpu.run(addRows, {
      bindings: { x, bias, out },
      params: { count: 4, width: 2 },
      workgroups: flatGrid(4),
    });
    expect([...(await out.read())]).toEqual([2, 3, 2, 3]);
    const wrong = [
      () => {
        // @ts-expect-error a misspelt binding
        gpu.run(addRows, { bindings: { x, bais: bias, out }, params: { count: 4, width: 2 } });
      },
      () => {
        // @ts-expect-error a missing binding
        gpu.run(addRows, { bindings: { x, out }, params: { count: 4, width: 2 } });
      },
      () => {
        // @ts-expect-error a misspelt parameter
        gpu.run(addRows, { bindings: { x, bias, out }, params: { count: 4, widht: 2 } });
      },
      () => {
        // @ts-expect-error a missing parameter
        gpu.run(addRows, { bindings: { x, bias, out }, params: { count: 4 } });
      },
    ];
    for (const call of wrong) expect(call).toThrow(ConfigError);
  });

  it("may be left out where a variant does not have them, and no other name may be given", async () => {
    const { gpu } = device;
    const [x, out] = [gpu.full([2], 3), gpu.empty([2], "f32")];
    const common = { params: { count: 2 }, workgroups: flatGrid(2) };
    gpu.run(scaled, { variant: { scale: false }, bindings: { x, out }, ...common });
    expect([...(await out.read())]).toEqual([3, 3]);
    gpu.run(scaled, { variant: { scale: true }, bindings: { x, scale: gpu.full([1], 2), out }, ...common });
    expect([...(await out.read())]).toEqual([6, 6]);
    const other = gpu.full([1], 2);
    expect(() => {
      // @ts-expect-error no variant has such a binding
      gpu.run(scaled, { variant: { scale: true }, bindings: { x, factor: other, out }, ...common });
    }).toThrow(ConfigError);
  });

  it("are checked by the compiler in the text, too", () => {
    const source = {
      name: "copy",
      bindings: { x: "read f32", out: "write f32" },
      params: { count: "u32" },
    } as const;
    defineKernel({
      ...source,
      wgsl: (_, { bindings, params }) => {
        expectTypeOf(params).toEqualTypeOf<{ readonly count: "params.count" }>();
        expectTypeOf(bindings).toEqualTypeOf<{ readonly x: "x"; readonly out: "out" }>();
        return `${flatMain("i", params.count)} ${bindings.out}[i] = ${bindings.x}[i]; }`;
      },
    });
    // @ts-expect-error a misspelt parameter
    defineKernel({ ...source, wgsl: (_, { params }) => `${params.cuont}` });
    // @ts-expect-error a misspelt binding
    defineKernel({ ...source, wgsl: (_, { bindings: { xs } }) => `${xs}[0]` });
    expectTypeOf<Parameters<typeof scaled.source.wgsl>[0]>().toEqualTypeOf<{ readonly scale: boolean }>();
    // @ts-expect-error a binding that is neither read nor write
    defineKernel({ name: "copy", bindings: { x: "raed f32" }, wgsl: () => "" });
    // @ts-expect-error a parameter of no type that a uniform holds
    defineKernel({ name: "copy", bindings: { x: "read f32" }, params: { n: "u16" }, wgsl: () => "" });
  });

  it("one dimension holds 65535 workgroups; more are spread over two", () => {
    expect(flatGrid(64 * 65535)).toEqual([65535, 1]);
    const [columns, rows] = flatGrid(64 * 65536);
    expect(rows).toBe(2);
    expect(columns * rows * 64).toBeGreaterThanOrEqual(64 * 65536);
    expect(flatGrid(0)).toEqual([0, 1]);
  });
});
