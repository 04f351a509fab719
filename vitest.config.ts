import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/** Files that take longest, first: at the end of a run none of them keeps one worker busy while the other waits. */
const LONGEST = [
  "release/src/browser.test.ts",
  "golden/positional.test.ts",
  "golden/attention.test.ts",
  "engine/attention.test.ts",
  "golden/sequence.test.ts",
  "golden/positional_few_bindings.test.ts",
  "engine/sparse.test.ts",
  "release/src/consumer.test.ts",
  "stored/stored.test.ts",
  "training/crash.test.ts",
  "relative_positions.test.ts",
  "matmul/matmul.test.ts",
  "golden/norm_ffn_moe.test.ts",
  "golden/attention_few_bindings.test.ts",
];

class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification): number => {
      const found = LONGEST.findIndex((end) => moduleId.endsWith(end));
      return found < 0 ? LONGEST.length : found;
    };
    const sorted = await super.sort(files);
    return sorted.sort((a, b) => place(a) - place(b));
  }
}

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
    sequence: { sequencer: LongestFirst },
  },
});
