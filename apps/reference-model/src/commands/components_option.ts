import { Option } from "commander";
import { loadComponents } from "../components/load.js";
import type { Components } from "../components/index.js";

/** Flags of a command that loads or makes a model. */
export interface ComponentsFlag {
  readonly components?: string;
}

export const componentsOption = (): Option =>
  new Option(
    "--components <module>",
    "a JavaScript module with parts of one's own that the configuration names",
  );

/** The parts that a configuration can name; undefined: those of this repository. */
export async function componentsOf(flags: ComponentsFlag): Promise<Components | undefined> {
  return flags.components === undefined ? undefined : loadComponents(flags.components);
}
