import * as attention from "@x/attention";
import * as ffn from "@x/ffn";
import * as kernels from "@x/kernels";
import * as moe from "@x/moe";
import * as norm from "@x/norm";
import * as positional from "@x/positional";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const { KernelsError, openDevice } = kernels;

interface Component {
  new (...given: unknown[]): unknown;
  readonly init?: (...given: unknown[]) => unknown;
  readonly plan?: (...given: unknown[]) => unknown;
}

const isClass = (value: unknown): value is Component =>
  typeof value === "function" && /^class\b/.test(Function.prototype.toString.call(value));

/** Every class that a package exports, save the errors and what only kernels makes. */
const components = Object.entries({ attention, ffn, kernels, moe, norm, positional }).flatMap(
  ([name, exported]) =>
    Object.entries(exported).flatMap(([own, value]) =>
      isClass(value) && !/Error$|^Gpu$|^Tensor$/.test(own) ? [[`${name}: ${own}`, value] as const] : [],
    ),
);

describe("what JavaScript leaves out is refused by a typed error", () => {
  let gpu: kernels.Gpu;
  beforeAll(async () => {
    gpu = await openDevice();
  });
  afterAll(() => {
    gpu.destroy();
  });

  it.each(components)("%s", (_, component) => {
    const { init, plan } = component;
    const attempts = [
      ...(init ? [() => init.call(component, gpu), () => init.call(component, gpu, {})] : []),
      ...(plan ? [() => plan.call(component), () => plan.call(component, {})] : []),
      // The configuration comes first, or after the device; a constructor of tensors alone takes what it is given.
      () => new component(gpu),
    ];
    const live = gpu.memory().liveBuffers;
    for (const attempt of attempts) {
      let thrown: Error | undefined;
      try {
        attempt();
      } catch (error) {
        thrown = error as Error;
      }
      if (attempt !== attempts.at(-1)) expect(thrown).toBeDefined();
      if (thrown) expect(KernelsError.isInstance(thrown), thrown.message).toBe(true);
    }
    expect(gpu.memory().liveBuffers).toBe(live);
  });
});
