import type { CaseReport } from "@x/conformance";

/** What the page of the browser test offers. */
export interface Page {
  describe(): Promise<{ name: string; subgroups: boolean; sizes: readonly [number, number] }>;
  /** The largest error of each package. */
  exercise(features: { subgroups: boolean }): Promise<Record<string, number>>;
  golden(features: { subgroups: boolean }, filter: string): Promise<CaseReport[]>;
}
