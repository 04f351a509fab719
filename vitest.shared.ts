import { fileURLToPath } from "node:url";
import { defineConfig, type ViteUserConfig } from "vitest/config";

/**
 * Settings of one package's tests: sources instead of builds, one device per file, two files at a time, and every shader
 * checked for races in workgroup memory. A test may take
 * minutes on a software adapter whose shader cache is empty: the time is that of compiling its kernels. Mesa's adapter
 * therefore leaves out LLVM's optimisations, which cost more than they gain at the sizes of tests.
 */
export function gpuProject(name: string): ViteUserConfig {
  return defineConfig({
    resolve: { conditions: ["@x/source"] },
    ssr: { resolve: { conditions: ["@x/source"] } },
    test: {
      name,
      include: ["src/**/*.test.ts"],
      env: { GALLIVM_PERF: "nopt" },
      setupFiles: [fileURLToPath(new URL("tooling/testing/src/check_races.ts", import.meta.url))],
      pool: "forks",
      testTimeout: 240_000,
      hookTimeout: 60_000,
    },
  });
}
