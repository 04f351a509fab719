#!/usr/bin/env node
import { existsSync } from "node:fs";
import { Command } from "commander";
import { ConfigError, KernelsError, openDevice, type Gpu } from "@x/kernels";
import { runOnnx } from "./onnx/run.js";
import { goldenFiles, runFile, type CaseReport } from "./run.js";

interface Flags {
  readonly golden?: string;
  readonly onnx?: string;
  readonly filter: string;
  readonly failures?: true;
}

function line(report: CaseReport): string {
  const errors = Object.entries(report.errors).map(([name, error]) => `${name} ${error.toExponential(1)}`);
  const detail = report.failure ?? errors.join(", ");
  return `${report.passed ? "ok    " : "FAILED"} ${report.area}/${report.mechanism}/${report.name}: ${detail}`;
}

/** Every golden case runs; a mechanism without a runner counts as failed. */
async function golden(gpu: Gpu, directory: string, { filter, failures }: Flags): Promise<boolean> {
  let [passed, failed] = [0, 0];
  for (const { area, path } of await goldenFiles(directory)) {
    for await (const report of runFile(gpu, area, path, filter)) {
      if (report.passed) passed++;
      else failed++;
      if (!report.passed || !failures) console.log(line(report));
    }
  }
  console.log(`${passed} passed, ${failed} failed, 0 skipped`);
  return failed === 0 && passed > 0;
}

const MARKS = { passed: "ok    ", failed: "FAILED", "not expressible": "-     " } as const;

/** What the public API cannot express is counted apart and named with its reason. */
async function onnx(gpu: Gpu, directory: string, { filter, failures }: Flags): Promise<boolean> {
  if (!existsSync(directory)) {
    console.log(`onnx: ${directory} is absent; skipped`);
    return true;
  }
  const counts = { passed: 0, failed: 0, "not expressible": 0 };
  const missing: string[] = [];
  for await (const { operator, name, outcome, detail } of runOnnx(gpu, directory, filter)) {
    counts[outcome]++;
    if (outcome === "not expressible") missing.push(`  ${operator}/${name}: ${detail}`);
    if (outcome !== "passed" || !failures) console.log(`${MARKS[outcome]} ${operator}/${name}: ${detail}`);
  }
  console.log(
    `onnx: ${counts.passed} passed, ${counts.failed} failed, ${counts["not expressible"]} not expressible${missing.length > 0 ? ":" : ""}`,
  );
  for (const text of missing) console.log(text);
  return counts.failed === 0 && counts.passed > 0;
}

const program = new Command("conformance")
  .description("Run golden cases forward and backward, and node cases of the ONNX standard, and compare.")
  .option("--golden <dir>", "directory of AREA/MECHANISM.safetensors")
  .option("--onnx <dir>", "directory of OPERATOR.safetensors: node cases of the ONNX standard")
  .option("--filter <name>", "only cases whose area/mechanism/case or operator/case holds this", "")
  .option("--failures", "print failures only")
  .action(async (flags: Flags) => {
    if (flags.golden === undefined && flags.onnx === undefined)
      throw new ConfigError("conformance", "neither --golden nor --onnx is given; one of them must be");
    const gpu = await openDevice();
    let good = true;
    try {
      if (flags.golden !== undefined) good = (await golden(gpu, flags.golden, flags)) && good;
      if (flags.onnx !== undefined) good = (await onnx(gpu, flags.onnx, flags)) && good;
    } finally {
      gpu.destroy();
    }
    process.exitCode = good ? 0 : 1;
  });

program.parseAsync().catch((error: unknown) => {
  console.error(KernelsError.isInstance(error) ? `error: ${error.message}` : error);
  process.exitCode = 1;
});
