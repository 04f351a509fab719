import { defineKernel, type Kernel, type Tensor } from "@x/kernels";
import type { Weights } from "./contract.js";

const advanceKernel: Kernel<undefined> = defineKernel({
  name: "advanceStep",
  bindings: { step: "read_write u32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(1)
fn main() { step[0] += 1u; }`,
});

/** The number of a training step, on the GPU: random numbers drawn with it are new at each replay of a recording. */
export class StepCounter {
  readonly step: Tensor;

  constructor({ gpu, made }: Pick<Weights, "gpu" | "made">) {
    this.step = gpu.keep(gpu.zeros([1], "u32"));
    made.push(this.step);
  }

  /** To be called after each step, inside what is recorded. */
  advance(): void {
    this.step.gpu.run(advanceKernel, { bindings: { step: this.step } });
  }

  dispose(): void {
    this.step.dispose();
  }
}
