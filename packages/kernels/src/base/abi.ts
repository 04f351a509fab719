import { DuplicatePackageError } from "./errors.js";

/** Version of the package and of the contract between it and the topic packages. */
export const VERSION = "1.0.0";
/** Raised whenever a tensor, tape or kernel of one copy could not be used by another. */
const ABI = 1;

/** Names one loaded copy of this package; every device carries the copy that opened it. */
export interface LoadedCopy {
  readonly version: string;
  readonly abi: number;
}

/** This copy. */
export const COPY: LoadedCopy = { version: VERSION, abi: ABI };

const KEY = Symbol.for("x.kernels.loaded");

function refuse(other: Partial<LoadedCopy> | undefined): never {
  const show = (copy: Partial<LoadedCopy> | undefined): string =>
    `${copy?.version ?? "an unknown version"} (contract ${String(copy?.abi ?? "unknown")})`;
  throw new DuplicatePackageError(
    "@x/kernels",
    `two copies are loaded: ${show(other)} and ${show(COPY)}. ` +
      "Topic packages take @x/kernels as a peer dependency, so install one version in the application " +
      "(npm ls @x/kernels shows where the second comes from)",
  );
}

/**
 * Refuse to run beside another copy of this package: tensors, tapes and pools of two copies do not mix.
 * Called when a device is opened, so importing the package has no effect.
 */
export function guardSingleCopy(): void {
  const host = globalThis as Record<symbol, LoadedCopy | undefined>;
  const loaded = (host[KEY] ??= COPY);
  if (loaded !== COPY) refuse(loaded);
}

/**
 * Refuse a device that another copy opened. A topic package with a copy of its own would write its operations on a
 * tape that nobody reads, and gradients would be lost without a word.
 */
export function expectOwnDevice(gpu: { readonly loadedCopy?: Partial<LoadedCopy> }): void {
  if (gpu.loadedCopy !== COPY) refuse(gpu.loadedCopy);
}
