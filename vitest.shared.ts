import { defineConfig, type ViteUserConfig } from "vitest/config";

/** Settings of one package's tests: sources instead of builds, one device per file, two files at a time. */
export function gpuProject(name: string): ViteUserConfig {
  return defineConfig({
    resolve: { conditions: ["@x/source"] },
    ssr: { resolve: { conditions: ["@x/source"] } },
    test: { name, include: ["src/**/*.test.ts"], pool: "forks", testTimeout: 60_000, hookTimeout: 60_000 },
  });
}
