import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { useGpu } from "@x/testing";
import { goldenFiles, runFile } from "./run.js";

const directory = fileURLToPath(new URL("../../fixtures/golden", import.meta.url));
const files = await goldenFiles(directory);

describe("golden cases", () => {
  const device = useGpu();

  it("are there", () => {
    expect(files.length).toBeGreaterThan(50);
  });

  for (const { area, path } of files)
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
});
