import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { checkCases, files } from "./check_cases.js";

describe("golden cases of positional encodings where a kernel binds no more tensors than WebGPU promises", () => {
  const device = useGpu({ small: true });

  it("is such a device", () => {
    expect(device.gpu.limits.maxStorageBuffersPerShaderStage).toBe(8);
  });

  checkCases(
    device,
    files.filter(({ area }) => area === "positional"),
  );
});
