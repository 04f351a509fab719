import { DuplicatePackageError } from "./errors.js";

/** Version of the package and of the contract between it and the topic packages. */
export const VERSION = "1.0.0";
/** Raised whenever a tensor, tape or kernel of one copy could not be used by another. */
export const ABI = 1;

const KEY = Symbol.for("x.kernels.loaded");

/**
 * Refuse to run beside another copy of this package: tensors, tapes and pools of two copies do not mix.
 * Called when a device is opened, so importing the package has no effect.
 */
export function guardSingleCopy(): void {
  const host = globalThis as Record<symbol, { version: string; abi: number; owner: object } | undefined>;
  const loaded = host[KEY];
  if (loaded === undefined) {
    host[KEY] = { version: VERSION, abi: ABI, owner: guardSingleCopy };
    return;
  }
  if (loaded.owner === guardSingleCopy) return;
  throw new DuplicatePackageError(
    "@x/kernels",
    `two copies are loaded: ${loaded.version} (contract ${String(loaded.abi)}) and ${VERSION} (contract ${String(ABI)}). ` +
      "Topic packages take @x/kernels as a peer dependency, so install one version in the application " +
      "(npm ls @x/kernels shows where the second comes from)",
  );
}
