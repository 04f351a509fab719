import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import type { Gpu } from "@x/kernels";
import { goldenFiles, runFile } from "../run.js";

/** The golden files of the fixtures; their tests are a file for each area, so that they run beside one another. */
export const files: readonly { readonly area: string; readonly path: string }[] = await goldenFiles(
  fileURLToPath(new URL("../../../fixtures/golden", import.meta.url)),
);

/** The mechanism's name in the path of its file. */
export const mechanismOf = (path: string): string => path.split("/").at(-1)!.replace(".safetensors", "");

/** A test for each file: every case of it agrees, in outputs and gradients. */
export function checkCases(device: { readonly gpu: Gpu }, of: typeof files): void {
  for (const { area, path } of of)
    it(`${area}/${mechanismOf(path)}: outputs and gradients of every case`, async () => {
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
}
