/** A GPU buffer with a count of what refers to it. Sizes are those of the pool's buckets. */
export interface Storage {
  readonly id: number;
  readonly buffer: GPUBuffer;
  /** Size of the buffer in bytes. */
  readonly bytes: number;
  /** Tensors, tapes and recordings that hold it. */
  references: number;
  /** Serial of the last queued command that touches it. */
  lastUse: number;
  /** The pool that takes it back. */
  home: StorageHome;
}

/** Whoever takes a storage back when nothing refers to it any more. */
export interface StorageHome {
  release(storage: Storage): void;
}

/**
 * The pool's bucket for a size: multiples of 256 bytes up to 4 KiB, then eight buckets per power of two, so at
 * most an eighth of a buffer is slack.
 */
export function bucketSize(bytes: number): number {
  const minimum = Math.max(bytes, 16);
  if (minimum <= 4096) return Math.ceil(minimum / 256) * 256;
  const step = 2 ** Math.max(Math.floor(Math.log2(minimum)) - 3, 8);
  return Math.ceil(minimum / step) * step;
}
