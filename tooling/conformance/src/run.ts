import { readdir } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { FormatError, type Gpu } from "@x/kernels";
import { attention, masks } from "./runners/attention.js";
import { ffn } from "./runners/ffn.js";
import { readGolden } from "./golden/format.js";
import { moe } from "./runners/moe.js";
import { deltaLayers } from "./runners/delta_layers.js";
import { gatedRecurrence } from "./runners/gated_recurrence.js";
import { norm } from "./runners/norm.js";
import { positional } from "./runners/positional.js";
import { retention } from "./runners/retention.js";
import { runCase, type CaseResult, type Runner } from "./runner.js";
import { stateSpace } from "./runners/state_space.js";

/** Runners by area and mechanism. */
export const RUNNERS: Readonly<Record<string, Readonly<Record<string, Runner>>>> = {
  attention: { ...attention, ...masks, ...retention, ...stateSpace, ...gatedRecurrence, ...deltaLayers },
  ffn,
  moe,
  norm,
  positional,
};

export interface CaseReport extends CaseResult {
  readonly area: string;
  readonly mechanism: string;
  readonly name: string;
}

/** The golden files of a directory: DIR/AREA/MECHANISM.safetensors, or of one area: AREA/MECHANISM.safetensors. */
export async function goldenFiles(directory: string): Promise<{ area: string; path: string }[]> {
  const out: { area: string; path: string }[] = [];
  const entries = await readdir(directory, { withFileTypes: true }).catch((cause: unknown) => {
    throw new FormatError(directory, "cannot be read; it must be a directory of golden files", { cause });
  });
  const names = (list: typeof entries): string[] => list.map((entry) => entry.name).sort();
  for (const file of names(entries.filter((e) => e.isFile() && e.name.endsWith(".safetensors"))))
    out.push({ area: basename(resolve(directory)), path: join(directory, file) });
  for (const area of names(entries.filter((e) => e.isDirectory()))) {
    const files = (await readdir(join(directory, area)))
      .filter((name) => name.endsWith(".safetensors"))
      .sort();
    for (const file of files) out.push({ area, path: join(directory, area, file) });
  }
  return out;
}

/** Run the cases of one file. */
export async function* runFile(
  gpu: Gpu,
  area: string,
  path: string,
  filter = "",
): AsyncGenerator<CaseReport> {
  const golden = await readGolden(path);
  const runner = RUNNERS[area]?.[golden.mechanism];
  for (const c of golden.cases) {
    const label = `${area}/${golden.mechanism}/${c.name}`;
    if (!label.includes(filter)) continue;
    const place = { area, mechanism: golden.mechanism, name: c.name };
    if (!runner)
      yield { ...place, passed: false, errors: {}, failure: "there is no runner for this mechanism" };
    else yield { ...place, ...(await runCase(gpu, runner, c, golden.tolerance)) };
  }
}
