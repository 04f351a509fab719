import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import * as attention from "@x/attention";
import * as ffn from "@x/ffn";
import * as kernels from "@x/kernels";
import * as moe from "@x/moe";
import * as norm from "@x/norm";
import * as positional from "@x/positional";
import { checkConfig, ConfigError, FormatError } from "@x/kernels";
import { expectObject, Fields } from "../config/index.js";
import type { Components } from "./contract.js";
import { below, find } from "./find.js";
import { COMPONENTS } from "./index.js";
import { ParameterSet } from "./parameters.js";

/** What a module of parts is given: the packages that the model runs on, and what makes a part's weights. */
const TOOLS = {
  kernels,
  positional,
  norm,
  attention,
  ffn,
  moe,
  ParameterSet,
  Fields,
  below,
  find,
  COMPONENTS,
};
export type Tools = typeof TOOLS;

const KINDS = Object.keys(COMPONENTS) as (keyof Components)[];

/**
 * The parts of this repository and those of a JavaScript module. Its default export is a function of `Tools` that
 * returns tables of parts, such as `({ kernels, ParameterSet }) => ({ mixers: { mine: (spec, weights) => .. } })`, or
 * those tables.
 *
 * @throws FormatError where the module cannot be loaded, ConfigError for what is not a table of parts, or for a name that
 *   a part of this repository has
 */
export async function loadComponents(path: string): Promise<Components> {
  const module = (await import(pathToFileURL(resolve(path)).href).catch((cause: unknown) => {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new FormatError(path, `cannot be loaded as a module of parts (${reason})`, { cause });
  })) as { readonly default?: unknown };
  if (module.default === undefined)
    throw new ConfigError(
      path,
      "must have a default export: tables of parts, or a function that returns them",
    );
  const given: unknown =
    typeof module.default === "function"
      ? await (module.default as (tools: Tools) => unknown)(TOOLS)
      : module.default;
  const tables = expectObject(path, given) as Partial<Record<keyof Components, unknown>>;
  checkConfig(path, tables, KINDS);
  const merged = KINDS.map((kind) => {
    const table = expectObject(`${path}: ${kind}`, tables[kind] ?? {});
    const value = kind === "ffnNames" ? "string" : "function";
    for (const [name, part] of Object.entries(table)) {
      if (typeof part !== value)
        throw new ConfigError(path, `${kind}.${name} is a ${typeof part}; it must be a ${value}`);
      if (Object.hasOwn(COMPONENTS[kind], name))
        throw new ConfigError(path, `${kind}.${name} is a part of this repository; take another name`);
    }
    return [kind, { ...COMPONENTS[kind], ...table }];
  });
  const all: unknown = Object.fromEntries(merged);
  return all as Components;
}
