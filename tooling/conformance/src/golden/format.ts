import { readFile } from "node:fs/promises";
import { FormatError } from "@x/kernels";
import { Safetensors } from "@x/kernels/safetensors";

/** A stored array of a golden file. */
export interface GoldenArray {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

export interface GoldenCase {
  readonly name: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly inputs: Readonly<Record<string, GoldenArray>>;
  readonly params: Readonly<Record<string, GoldenArray>>;
  readonly outputs: Readonly<Record<string, GoldenArray>>;
  readonly cotangents: Readonly<Record<string, GoldenArray>>;
  readonly grads: Readonly<Record<string, GoldenArray>>;
}

export interface GoldenFile {
  readonly mechanism: string;
  readonly tolerance: { readonly out: number; readonly grad: number };
  readonly cases: readonly GoldenCase[];
}

type Json = Record<string, unknown>;

function object(file: string, what: string, value: unknown): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new FormatError(file, `${what} must be an object`);
  return value as Json;
}

function strings(file: string, what: string, value: unknown): string[] {
  if (!Array.isArray(value) || !value.every((v) => typeof v === "string"))
    throw new FormatError(file, `${what} must list names`);
  return value;
}

function tolerance(file: string, value: unknown): { out: number; grad: number } {
  const { out, grad } = object(file, "tolerance", value);
  if (typeof out !== "number" || typeof grad !== "number")
    throw new FormatError(file, "tolerance must hold the numbers out and grad");
  return { out, grad };
}

/** Read a file of format golden-1. @throws FormatError */
export async function readGolden(path: string): Promise<GoldenFile> {
  const file = await Safetensors.parse(path, await readFile(path));
  const { format, spec: text } = file.header.metadata;
  if (format !== "golden-1" || text === undefined)
    throw new FormatError(path, `its format is ${JSON.stringify(format)}; it must be "golden-1" with a spec`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(path, "its spec is no JSON", { cause });
  }
  const spec = object(path, "spec", parsed);
  if (typeof spec["mechanism"] !== "string") throw new FormatError(path, "spec.mechanism must be a name");
  const cases: GoldenCase[] = [];
  for (const [name, value] of Object.entries(object(path, "spec.cases", spec["cases"]))) {
    const entry = object(path, `case ${name}`, value);
    const take = async (
      kind: string,
      names: string[],
      optional = false,
    ): Promise<Record<string, GoldenArray>> => {
      const out: Record<string, GoldenArray> = {};
      for (const n of names) {
        const key = `${name}/${kind}/${n}`;
        if (optional && !file.header.entries.has(key)) continue;
        out[n] = { shape: file.entry(key).shape, data: await file.numbers(key) };
      }
      return out;
    };
    const list = (key: string): string[] => strings(path, `case ${name}: ${key}`, entry[key]);
    cases.push({
      name,
      config: object(path, `case ${name}: config`, entry["config"]),
      inputs: await take("in", list("inputs")),
      params: await take("param", list("params")),
      outputs: await take("out", list("outputs")),
      cotangents: await take("cot", list("outputs"), true),
      grads: await take("grad", list("grads")),
    });
  }
  return { mechanism: spec["mechanism"], tolerance: tolerance(path, spec["tolerance"]), cases };
}
