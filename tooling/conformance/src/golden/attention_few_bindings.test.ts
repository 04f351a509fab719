import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { checkCases, files, mechanismOf } from "./check_cases.js";

describe("golden cases of attention where a kernel binds no more tensors than WebGPU promises", () => {
  const device = useGpu({ small: true });

  it("is such a device", () => {
    expect(device.gpu.limits.maxStorageBuffersPerShaderStage).toBe(8);
  });

  // What brings buffers of its own: masks, and patterns of each kind; packages/attention folds the rest.
  const mechanisms = [
    ...["sdpa", "gqa", "combined", "longformer", "transformer_xl", "mla"],
    ...["selective_scan", "rg_lru", "griffin_recurrent_block", "rwkv4_time_mix"],
  ];
  checkCases(
    device,
    files.filter(({ area, path }) => area === "attention" && mechanisms.includes(mechanismOf(path))),
  );
});
