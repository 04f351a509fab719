import { existsSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import {
  ConfigError,
  Gpu,
  groupedMatmul,
  matmul,
  tune,
  vjp,
  type Tuning,
  type TuningStore,
} from "../../index.js";
import { numbers, relativeError, useGpu } from "../../test-support.js";

const device = useGpu();

/** A store in memory. */
function memoryStore(texts: Map<string, string> = new Map<string, string>()) {
  const store: TuningStore = {
    load: vi.fn((name: string) => texts.get(name)),
    save: vi.fn((name: string, text: string) => void texts.set(name, text)),
  };
  return { store, texts };
}

afterEach(() => {
  device.gpu.tuning = undefined;
  vi.unstubAllEnvs();
});

describe("tune", () => {
  it("measures once, uses the result and keeps it", async () => {
    const { gpu } = device;
    const before = gpu.memory().liveBytes;
    const { store, texts } = memoryStore();
    const tuning = await tune(gpu, { store });
    expect(gpu.memory().liveBytes).toBe(before);
    expect(gpu.tuning).toEqual(tuning);
    expect([...texts.values()].map((text) => JSON.parse(text) as Tuning)).toEqual([tuning]);
    expect([...texts.keys()][0]).toContain(gpu.info.name);
    const { dispatches } = gpu.counters();
    expect(await tune(gpu, { store })).toEqual(tuning);
    expect(gpu.counters().dispatches).toBe(dispatches);
    expect(store.save).toHaveBeenCalledOnce();
  });

  it("chooses the kernels", async () => {
    const { gpu } = device;
    const names = async (tuning: Tuning): Promise<string[]> => {
      gpu.tuning = tuning;
      const times = await gpu.profile(() => {
        const a = gpu.zeros([64, 64]);
        matmul(a, a);
        matmul(gpu.zeros([1, 64]), gpu.zeros([64, 1024]));
      });
      return times.map(({ kernel }) => kernel).sort();
    };
    const subgroups = gpu.features.subgroups && gpu.features.subgroupMinSize === gpu.features.subgroupMaxSize;
    expect(await names({ matmul: "tiled", vector: "vector" })).toEqual(["matmulTiled", "matmulVector"]);
    expect(await names({ matmul: "subgroup", vector: "wide" })).toEqual([
      ...(subgroups ? ["matmul"] : ["matmulTiled"]),
      "matmulWideVector",
    ]);
  });

  it.each([
    ["tiled", ["groupedMatmulTiled"]],
    ["subgroup", ["groupedMatmul"]],
  ] as const)(
    "chooses %s for groups, forward and backward, and gives the same product",
    async (form, kernels) => {
      const { gpu } = device;
      const { subgroups, subgroupMinSize, subgroupMaxSize } = gpu.features;
      gpu.tuning = { matmul: form, vector: "wide" };
      const [rows, width, groups] = [128, 36, 2];
      const [x, w, g] = [numbers(rows * width, 1), numbers(groups * 64 * width, 2), numbers(rows * 64, 3)];
      const used = new Set<string>();
      const run = vi.spyOn(gpu, "run").mockImplementation((kernel, call) => {
        used.add(kernel.source.name);
        Gpu.prototype.run.call(gpu, kernel, call);
      });
      const offsets = gpu.tensor([0, 60, rows], [3], "u32");
      const [tx, tw, tg] = [
        gpu.tensor(x, [rows, width]),
        gpu.tensor(w, [groups, 64, width]),
        gpu.tensor(g, [rows, 64]),
      ];
      const { outputs, pullback } = vjp(() => [groupedMatmul(tx, tw, offsets)], [tx, tw]);
      const values = await Promise.all([...outputs, ...pullback([tg])].map(async (t) => t.read()));
      run.mockRestore();
      expect([...used]).toEqual(
        subgroups && subgroupMinSize === subgroupMaxSize ? kernels : ["groupedMatmulTiled"],
      );
      const [y, dx, dw] = [
        new Float64Array(rows * 64),
        new Float64Array(x.length),
        new Float64Array(w.length),
      ];
      for (let r = 0; r < rows; r++)
        for (let n = 0; n < 64; n++)
          for (let k = 0; k < width; k++) {
            const at = ((r < 60 ? 0 : 64) + n) * width + k;
            y[r * 64 + n]! += x[r * width + k]! * w[at]!;
            dx[r * width + k]! += g[r * 64 + n]! * w[at]!;
            dw[at]! += g[r * 64 + n]! * x[r * width + k]!;
          }
      for (const [i, expected] of [y, dx, dw].entries())
        expect(relativeError(values[i]!, expected)).toBeLessThan(3e-6);
    },
  );

  it("every form gives the product", async () => {
    const { gpu } = device;
    const [x, w] = [numbers(4 * 64, 1), numbers(64 * 1024, 2)];
    const values = await Promise.all(
      (["vector", "wide"] as const).map(async (form) =>
        gpu.scope(() => matmul(gpu.tensor(x, [4, 64]), gpu.tensor(w, [64, 1024]), { form })).read(),
      ),
    );
    expect(relativeError(values[0]!, Float64Array.from(values[1]!))).toBeLessThan(3e-6);
    expect(() => matmul(gpu.zeros([1, 3]), gpu.zeros([3, 8]), { form: "wide" })).toThrow(ConfigError);
  });

  it("measures again where the store holds something else, or fails", async () => {
    const { gpu } = device;
    const { store, texts } = memoryStore();
    const tuning = await tune(gpu, { store });
    for (const text of ["{", "[]", "null", '{"matmul":"best","vector":"wide"}', '{"matmul":"tiled"}']) {
      texts.set([...texts.keys()][0]!, text);
      expect(Object.keys(await tune(gpu, { store }))).toEqual(Object.keys(tuning));
      expect(JSON.parse([...texts.values()][0]!)).toEqual(gpu.tuning);
    }
    const fail = (): never => {
      throw new Error("no room");
    };
    expect(Object.keys(await tune(gpu, { store: { load: fail, save: fail } }))).toEqual(Object.keys(tuning));
    await expect(tune(gpu, { stores: store } as never)).rejects.toThrow(/stores/);
  });

  it("keeps its result in the user's cache folder", async ({ skip }) => {
    skip(process.platform !== "linux", "the folder is named by the system");
    const { gpu } = device;
    const folder = await mkdtemp(join(tmpdir(), "x-tune-"));
    try {
      vi.stubEnv("XDG_CACHE_HOME", folder);
      const tuning = await tune(gpu);
      const [file] = await readdir(join(folder, "x-kernels"));
      const path = join(folder, "x-kernels", file!);
      expect(JSON.parse(await readFile(path, "utf8"))).toEqual(tuning);
      const other: Tuning = { ...tuning, vector: tuning.vector === "wide" ? "vector" : "wide" };
      await writeFile(path, JSON.stringify(other));
      expect(await tune(gpu)).toEqual(other);
      expect(existsSync(path)).toBe(true);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
