import type { Gpu } from "@x/kernels";

/** A table of its own, for one family of components: `npm run bench -- --suite NAME`. */
export interface Suite {
  /** One sentence for the help. */
  readonly description: string;
  /** Measure on an open device and print through `say`; what is returned is written as JSON. */
  readonly run: (
    gpu: Gpu,
    options: { readonly quick: boolean; readonly filter: string; readonly say: (line: string) => void },
  ) => Promise<unknown>;
}

/** Suites by name, each loaded when asked for. To add one, write its file and a line here. */
export const SUITES: Readonly<Record<string, () => Promise<Suite>>> = {
  moe: async () => (await import("./moe.js")).suite,
};
