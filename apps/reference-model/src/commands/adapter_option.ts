import type { Option } from "commander";
import { readAdapter, type Adapter } from "../checkpoint/adapter/peft.js";
import { repeatable } from "./shared.js";

export interface AdapterFlag {
  readonly adapter: readonly string[];
}

export const adapterOption = (): Option =>
  repeatable("--adapter <dir>", "a LoRA in a PEFT folder, added to the products of the model");

/** The adapters of the flags, in their order. @throws FormatError, ConfigError */
export const adaptersOf = (paths: readonly string[]): Promise<Adapter[]> =>
  Promise.all(paths.map((path) => readAdapter(path)));
