import { openDevice, VERSION, type Gpu } from "@x/kernels";
import { measureLimits } from "../measure/limits.js";
import { buildProgram, type Program } from "./project.js";
import type { Answer, Opened, Prepared, Request, Sampled } from "./protocol.js";

/** The process that holds this project. */
let gpu: Gpu | undefined;
let program: Program | undefined;

async function answer(request: Request): Promise<unknown> {
  if (request.op === "open") {
    gpu = await openDevice(request.options);
    return { version: VERSION, adapter: gpu.info.name, software: gpu.info.software } satisfies Opened;
  }
  if (!gpu) throw new Error("not open");
  switch (request.op) {
    case "limits":
      return measureLimits(gpu);
    case "prepare": {
      program?.dispose();
      program = buildProgram(gpu, request.kind, request.options, request.inputs);
      await gpu.sync();
      const start = performance.now();
      program.step();
      await gpu.sync();
      const first = performance.now() - start;
      return { outputs: await program.outputs(), first } satisfies Prepared;
    }
    case "sample": {
      const start = performance.now();
      for (let i = 0; i < request.count; i++) program!.step();
      await gpu.sync();
      return { milliseconds: performance.now() - start } satisfies Sampled;
    }
    case "profile":
      return gpu.profile(() => {
        program!.step();
      });
    case "release":
      program?.dispose();
      program = undefined;
      gpu.trim();
      return undefined;
  }
}

let last: Promise<void> = Promise.resolve();
process.on("message", (request: Request) => {
  last = last
    .then(() => answer(request))
    .then(
      (value): Answer => ({ value }),
      (error: unknown): Answer => ({
        error: error instanceof Error ? (error.stack ?? error.message) : String(error),
      }),
    )
    .then((reply) => {
      process.send?.(reply);
    });
});
process.on("disconnect", () => process.exit(0));
