import { mkdir, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import type { Implementation } from "./implementation.js";
import type { Limits } from "../measure/limits.js";
import type { Result, Row } from "./run.js";

/** Everything that a run found. */
export interface Report {
  readonly date: string;
  readonly adapter: string;
  readonly host: {
    readonly cpu: string;
    readonly cores: number;
    readonly node: string;
    readonly load: number;
  };
  readonly versions: Readonly<Record<string, string>>;
  readonly limits: Limits | undefined;
  readonly rows: readonly Row[];
}

export const figure = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);

function cell(result: Result | undefined): string {
  if (!result) return "-";
  switch (result.status) {
    case "ok":
      return figure(result.median);
    case "wrong":
      return `wrong (${result.error.toExponential(0)})`;
    case "failed":
      return "failed";
  }
}

/** The least median of the implementations, if any is right. */
function best(row: Row, list: readonly Implementation[]): number | undefined {
  const values = list.flatMap(({ name }) => {
    const result = row.results[name];
    return result?.status === "ok" ? [result.median] : [];
  });
  return values.length === 0 ? undefined : Math.min(...values);
}

/** How many times faster this project is than the best of the others. */
export function ratio(row: Row, own: Implementation, others: readonly Implementation[]): number | undefined {
  const [mine, theirs] = [
    best(row, [own]),
    best(
      row,
      others.filter((p) => p !== own),
    ),
  ];
  return mine === undefined || theirs === undefined ? undefined : theirs / mine;
}

/** Table of the rows in Markdown; columns aligned for the terminal. */
export function table(
  rows: readonly Row[],
  implementations: readonly Implementation[],
  own: Implementation,
): string {
  const peers = implementations.length > 1;
  const webgpu = implementations.filter((i) => i.webgpu);
  const others = implementations.filter((i) => !i.webgpu);
  const header = ["row", "unit", ...implementations.map((i) => i.name), "GFLOP/s", "GB/s"];
  if (peers) header.push("x best other WebGPU");
  if (others.length > 0) header.push("x best wasm");
  const times = (value: number | undefined): string => (value === undefined ? "-" : value.toFixed(2));
  const lines = rows.map((row) => {
    const mine = best(row, [own]);
    const cells = [
      row.name,
      row.unit,
      ...implementations.map((i) => cell(row.results[i.name])),
      row.flops && mine ? figure(row.flops / mine / 1e6) : "",
      row.bytes && mine ? figure(row.bytes / mine / 1e6) : "",
    ];
    if (peers) cells.push(times(ratio(row, own, webgpu)));
    if (others.length > 0) cells.push(times(ratio(row, own, [own, ...others])));
    return cells;
  });
  const widths = header.map((h, i) => Math.max(h.length, ...lines.map((l) => l[i]!.length)));
  const format = (cells: readonly string[]): string =>
    `| ${cells.map((c, i) => (i < 2 ? c.padEnd(widths[i]!) : c.padStart(widths[i]!))).join(" | ")} |`;
  const rule = `| ${widths.map((w, i) => (i < 2 ? "-".repeat(w) : `${"-".repeat(w - 1)}:`)).join(" | ")} |`;
  return [format(header), rule, ...lines.map(format)].join("\n");
}

export function showLimits(limits: Limits): string {
  const forms = Object.entries(limits.forms)
    .map(([name, value]) => `${name} ${figure(value)}`)
    .join(", ");
  return (
    `limits: ${figure(limits.fma)} GFLOP/s multiply-add, ${figure(limits.load)} G loads/s of 4 bytes, ` +
    `${figure(limits.copy)} GB/s copied (read and written)\n  ${forms}`
  );
}

export async function writeJson(path: string, report: unknown): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, `${JSON.stringify(report, undefined, 2)}\n`);
}
