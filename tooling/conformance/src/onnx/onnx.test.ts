import { describe, expect, it } from "vitest";
import { sharedFolder, useGpu } from "@x/testing";
import type { OnnxArray, OnnxCase } from "./format.js";
import { OPERATORS, runOnnx, runOnnxCase } from "./run.js";

const device = useGpu();
const folder = sharedFolder("onnx");

const f32 = (shape: readonly number[], data: readonly number[]): OnnxArray => ({ shape, dtype: "F32", data });
const softmaxOf = (change: Partial<OnnxCase>): OnnxCase => ({
  operator: "Softmax",
  name: "of two equal elements",
  opset: 13,
  attributes: { axis: 0 },
  inputs: ["x"],
  outputs: ["y"],
  given: { x: f32([2], [3, 3]) },
  expected: { y: f32([2], [0.5, 0.5]) },
  ...change,
});

describe("node cases of the ONNX standard", () => {
  it.each<[string, Partial<OnnxCase>, string, RegExp]>([
    ["pass where all agrees", {}, "passed", /0 of the tolerance/],
    ["fail by a value", { expected: { y: f32([2], [0.5, 0.50001]) } }, "failed", /of the tolerance/],
    ["fail by NaN", { given: { x: f32([2], [NaN, 3]) } }, "failed", /Infinity/],
    ["fail by a shape", { expected: { y: f32([1, 2], [0.5, 0.5]) } }, "failed", /it must be \[1, 2\]/],
    ["fail by an error", { attributes: { axis: 5 } }, "failed", /axis is 5/],
    ["name an attribute that nothing corresponds to", { attributes: { beta: 2 } }, "not expressible", /beta/],
    ["name an operator without a mapping", { operator: "Loop" }, "not expressible", /no mapping/],
  ])("%s", async (_, change, outcome, detail) => {
    const before = device.gpu.memory().liveBuffers;
    const report = await runOnnxCase(device.gpu, softmaxOf(change));
    expect(report.outcome).toBe(outcome);
    expect(report.detail).toMatch(detail);
    expect(device.gpu.memory().liveBuffers).toBe(before);
  });

  it.skipIf(folder === undefined)(
    "agree, or are named with what is missing",
    { timeout: 300_000 },
    async () => {
      const failures: string[] = [];
      const found = new Set<string>();
      let passed = 0;
      for await (const { operator, name, outcome, detail } of runOnnx(device.gpu, folder!)) {
        found.add(operator);
        if (outcome === "passed") passed++;
        if (outcome === "failed") failures.push(`${operator}/${name}: ${detail}`);
      }
      expect(failures).toEqual([]);
      expect([...found].filter((operator) => !(operator in OPERATORS))).toEqual([]);
      expect(passed).toBeGreaterThanOrEqual(397);
    },
  );
});
