#!/usr/bin/env node
import { Command } from "commander";
import { KernelsError, openDevice } from "@x/kernels";
import { goldenFiles, runFile, type CaseReport } from "./run.js";

function line(report: CaseReport): string {
  const errors = Object.entries(report.errors).map(([name, error]) => `${name} ${error.toExponential(1)}`);
  const detail = report.failure ?? errors.join(", ");
  return `${report.passed ? "ok    " : "FAILED"} ${report.area}/${report.mechanism}/${report.name}: ${detail}`;
}

const program = new Command("conformance")
  .description("Run golden cases forward and backward and compare outputs and gradients.")
  .requiredOption("--golden <dir>", "directory of AREA/MECHANISM.safetensors")
  .option("--filter <name>", "only cases whose area/mechanism/case holds this", "")
  .option("--failures", "print failures only")
  .action(async (flags: { golden: string; filter: string; failures?: true }) => {
    const gpu = await openDevice();
    let [passed, failed] = [0, 0];
    try {
      for (const { area, path } of await goldenFiles(flags.golden)) {
        for await (const report of runFile(gpu, area, path, flags.filter)) {
          if (report.passed) passed++;
          else failed++;
          if (!report.passed || !flags.failures) console.log(line(report));
        }
      }
    } finally {
      gpu.destroy();
    }
    // Every case runs; a mechanism without a runner counts as failed.
    console.log(`${passed} passed, ${failed} failed, 0 skipped`);
    process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
  });

program.parseAsync().catch((error: unknown) => {
  console.error(KernelsError.isInstance(error) ? `error: ${error.message}` : error);
  process.exitCode = 1;
});
