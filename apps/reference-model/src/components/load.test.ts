import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ConfigError, FormatError } from "@x/kernels";
import { useGpu } from "@x/testing";
import { loadCheckpoint } from "../checkpoint/load.js";
import { tinyParts } from "../test-support.js";
import { TRAINING_DEFAULTS } from "../training/options.js";
import { train } from "../training/train.js";
import { loadComponents } from "./load.js";

describe("a module of parts", () => {
  const device = useGpu();
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "x-parts-"));
    writeFileSync(join(folder, "text.txt"), "the cat sat on the mat\n\nthe dog sat on the log\n");
  });
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });
  const moduleOf = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  };

  it("is trained, saved, gone on with and loaded; without the module the part is named", async () => {
    const { gpu } = device;
    const path = moduleOf(
      "mine.mjs",
      "export default ({ COMPONENTS }) => ({ norms: { mine: (...given) => COMPONENTS.norms.layer(...given) } });",
    );
    const components = await loadComponents(path);
    const model = tinyParts({ dim: 8, maxLength: 16, numLayers: 1, norm: { type: "mine" } });
    model["mixer"] = { type: "attention", numHeads: 1 };
    const options = { ...TRAINING_DEFAULTS, batch: 1, seqLen: 8, warmup: 0, validation: 0 };
    const out = join(folder, "out");
    const run = { data: join(folder, "text.txt"), out, model, vocabSize: 260, components };
    await train(gpu, { ...run, options: { ...options, steps: 1 } });
    const result = await train(gpu, { ...run, options: { ...options, steps: 2 } });
    expect(result.step).toBe(2);
    const { norm } = JSON.parse(readFileSync(join(out, "config.json"), "utf8")) as { norm: unknown };
    expect(norm).toEqual({ type: "mine" });
    const loaded = await loadCheckpoint(gpu, out, { components });
    loaded.model.dispose();
    await expect(loadCheckpoint(gpu, out)).rejects.toThrow(/"mine"; known: .*--components adds others/);
  });

  it("is refused where it cannot be loaded, has no tables, or takes the name of a part that there is", async () => {
    await expect(loadComponents(join(folder, "none.mjs"))).rejects.toThrow(FormatError);
    for (const [text, message] of [
      ["export const parts = {};", /must have a default export/],
      ["export default { normes: {} };", /unknown key "normes"; did you mean "norms"/],
      ["export default { norms: { mine: 3 } };", /norms\.mine is a number; it must be a function/],
      ["export default { norms: { rms: () => 1 } };", /norms\.rms is a part of this repository/],
    ] as const) {
      const refused = loadComponents(moduleOf(`bad-${text.length}.mjs`, text));
      await expect(refused).rejects.toThrow(ConfigError);
      await expect(refused).rejects.toThrow(message);
    }
  });
});
