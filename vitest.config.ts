import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    projects: [
      "packages/*",
      "apps/*",
      "tooling/testing",
      "tooling/conformance",
      "tooling/release",
      "tooling/bench",
    ],
    maxWorkers: 2,
    pool: "forks",
  },
});
