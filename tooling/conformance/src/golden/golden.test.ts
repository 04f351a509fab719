import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import type { Gpu } from "@x/kernels";
import { useGpu } from "@x/testing";
import { goldenFiles, runFile, RUNNERS } from "../run.js";
import { readGolden } from "./format.js";

const directory = fileURLToPath(new URL("../../../fixtures/golden", import.meta.url));
const files = await goldenFiles(directory);

const check = (device: { readonly gpu: Gpu }, of: typeof files): void => {
  for (const { area, path } of of)
    it(`${area}/${path.split("/").at(-1)!.replace(".safetensors", "")}: outputs and gradients of every case`, async () => {
      let count = 0;
      for await (const report of runFile(device.gpu, area, path)) {
        count++;
        expect({
          case: report.name,
          errors: report.errors,
          failure: report.failure,
          passed: report.passed,
        }).toMatchObject({ passed: true });
      }
      expect(count).toBeGreaterThan(0);
    });
};

describe("golden cases", () => {
  it("are all there, and every runner has its cases", async () => {
    const counts: Record<string, number> = {};
    for (const { area } of files) counts[area] = (counts[area] ?? 0) + 1;
    expect(counts).toEqual({ attention: 50, ffn: 20, moe: 19, norm: 14, positional: 19 });
    const run = new Set<string>();
    for (const { area, path } of files) run.add(`${area}/${(await readGolden(path)).mechanism}`);
    const known = Object.entries(RUNNERS).flatMap(([area, of]) =>
      Object.keys(of).map((name) => `${area}/${name}`),
    );
    expect(known.filter((name) => !run.has(name))).toEqual([]);
  });

  check(useGpu(), files);
});

describe("golden cases where a kernel binds no more tensors than WebGPU promises", () => {
  const device = useGpu({ small: true });

  it("is such a device", () => {
    expect(device.gpu.limits.maxStorageBuffersPerShaderStage).toBe(8);
  });

  // What brings buffers of its own: every encoding, masks, and patterns of each kind; packages/attention folds the rest.
  const attention = [
    ...["sdpa", "gqa", "combined", "longformer", "transformer_xl", "mla"],
    ...["selective_scan", "rg_lru", "griffin_recurrent_block", "rwkv4_time_mix"],
  ];
  check(
    device,
    files.filter(
      ({ area, path }) =>
        area === "positional" ||
        (area === "attention" && attention.some((name) => path.endsWith(`/${name}.safetensors`))),
    ),
  );
});
