import type { Gpu } from "@x/kernels";

/** A sequence cut into pieces that are walked at the same time. */
export interface Chunks {
  /** Tokens of a chunk; the last may be shorter. */
  readonly chunk: number;
  readonly chunks: number;
}

/** Tokens of a chunk at least: walking chunks by themselves first doubles the work. */
const SHORTEST = 64;

/**
 * Chunks of a multiple of `unit` tokens, as many as give a device enough to do at once where each is walked by
 * `invocations` of a kernel; one chunk where these are enough by themselves.
 */
export function cut(gpu: Gpu, rows: number, invocations: number, unit = 1): Chunks {
  const enough = gpu.info.software ? 256 : 32768;
  const wanted = Math.min(Math.ceil(enough / invocations), Math.floor(rows / SHORTEST));
  const chunk = wanted > 1 ? Math.ceil(rows / wanted / unit) * unit : rows;
  return { chunk, chunks: Math.ceil(rows / chunk) };
}
