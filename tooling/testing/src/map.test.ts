import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, it } from "vitest";
import { repository } from "./index.js";

/** What has to be on the map, by its sections: the names that stand before the colon. */
const MECHANISMS: Readonly<Record<string, readonly string[]>> = {
  "Positional encoding": [
    ...["Learned absolute", "Sinusoidal", "Shaw", "Transformer-XL, reparametrised", "DeBERTa", "T5", "ALiBi"],
    ...["RoPE", "PI", "SuperHOT", "Compression per pair", "NTK-aware", "Dynamic NTK", "NTK-by-parts"],
    ...["YaRN", "LongRoPE", "Llama-3"],
  ],
  Normalisation: [
    ...["BatchNorm", "LayerNorm", "RMSNorm", "pRMSNorm", "Post-LN", "Pre-LN", "Sub-LN (Magneto)"],
  ],
  "Attention, base": ["MHSA", "O(n²)", "K/V cache"],
  "Attention, sparse and local": [
    ...["Blocks", "Sliding window", "Dilation", "Dilation, growing with depth", "Random tokens"],
    ...["Global tokens", "Sparse Transformer", "Longformer", "BigBird", "LongT5", "LongNet"],
  ],
  "Attention, segment recurrence": ["Transformer-XL", "RMT"],
  "Attention, fewer keys and values": ["MQA", "GQA", "MLA"],
  "Attention, hierarchy": ["Top Down Transformer", "SLED", "YOCO"],
  "Attention, retrieval": ["Memorizing Transformer", "Unlimiformer"],
  "Attention, replaced": [
    ...["RetNet, parallel", "RetNet, recurrent", "RetNet, chunkwise", "Linear attention"],
    ...["State space models, in training", "State space models, in inference", "Mamba-360, structured"],
    ...["Mamba-360, gated", "Mamba-360, recurrent", "Mamba-360, miscellaneous"],
  ],
  FFN: [
    ...["FFN", "Key-value store", "Editing facts", "ReLU", "GELU", "Swish", "SiLU", "Mish", "GLU", "GeGLU"],
    ...["SwiGLU", "KAN, splines", "KAN, Chebyshev", "KAN, wavelets", "KAN, Fourier", "efficient-kan"],
  ],
  MoE: [
    ...["Experts in place of the FFN", "Imbalance", "Balancing loss", "Expert capacity", "Specialisation"],
    ...["Mixtral", "DeepSeekMoE", "PEER"],
  ],
  "The current recipe": [
    ...["Byte-level BPE", "RoPE and variations", "Pre-norm with RMSNorm", "SwiGLU", "Sparse attention"],
    ...["Sliding window", "GQA", "MoE"],
  ],
};

const MAP = join(repository, "docs/map.md");
/** A row: the mechanism, an excerpt of the line, and a link to the line whose text ends in its number. */
const ROW = /^\| (.+?) +\| `(.+?)` +\| \[(.+?):(\d+)\]\((\S+?)#L(\d+)\) +\|$/;

const linesOf = (file: string): string[] => readFileSync(join(repository, "docs", file), "utf8").split("\n");

/** The row with the number of the line that holds its excerpt, where the file has one such line. */
function renumbered(row: string): string {
  const [, , excerpt = "", name = "", number = "", file = "", line = ""] = ROW.exec(row) ?? [];
  if (excerpt === "") return row;
  const found = linesOf(file).flatMap((text, i) => (text.includes(excerpt) ? [String(i + 1)] : []));
  const link = (n: string, at: string): string => `[${name}:${n}](${file}#L${at})`;
  return found.length === 1 ? row.replace(link(number, line), () => link(found[0]!, found[0]!)) : row;
}

if (process.env["UPDATE_MAP"] === "1")
  writeFileSync(MAP, readFileSync(MAP, "utf8").split("\n").map(renumbered).join("\n"));

const sections = readFileSync(MAP, "utf8")
  .split(/^## /m)
  .slice(1)
  .map((text) => {
    const [title = "", ...lines] = text.split("\n");
    const rows = lines.filter((line) => line.startsWith("| ") && !/^\| (mechanism|-+) /.test(line));
    return { title, rows };
  });

describe("the map", () => {
  it("has the sections of the list", () => {
    expect(sections.map(({ title }) => title)).toEqual(Object.keys(MECHANISMS));
  });

  it.each(sections)("$title: has a row for each mechanism", ({ title, rows }) => {
    const names = rows.map((row) => /^\| ([^:]+):/.exec(row)?.[1]);
    expect(names).toEqual(expect.arrayContaining([...(MECHANISMS[title] ?? [])]));
  });

  it.each(sections.flatMap(({ rows }) => rows))("%s", (row) => {
    const parts = ROW.exec(row);
    expect(parts, "a mechanism, an excerpt in backticks and [file.ts:1](file.ts#L1)").not.toBeNull();
    const [, , excerpt = "", name, number, file = "", line] = parts ?? [];
    expect({ name, number }).toEqual({ name: basename(file), number: line });
    expect(linesOf(file)[Number(line) - 1], "UPDATE_MAP=1 writes the number anew").toContain(excerpt);
  });
});
