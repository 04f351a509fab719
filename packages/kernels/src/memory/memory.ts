import { BufferUsage } from "../base/constants.js";
import { OutOfMemoryError } from "../base/errors.js";
import { bucketSize, type Storage, type StorageHome } from "./storage.js";

/** Public memory figures, in bytes; live and pooled memory are told apart. */
export interface MemoryStatistics {
  /** Buffers that a tensor, a tape or a recording holds. */
  readonly liveBuffers: number;
  readonly liveBytes: number;
  /** Buffers kept for reuse; `trim()` gives them back. */
  readonly pooledBuffers: number;
  readonly pooledBytes: number;
  /** The most live bytes so far. */
  readonly peakBytes: number;
  /** The limit that was set for live and pooled bytes together, or Infinity. */
  readonly budget: number;
}

/**
 * Buffers by bucket size. A freed buffer is kept; above the pool's limit, the longest unused ones go. Commands run in the order in
 * which they were queued, so a buffer may be reused as soon as it is freed; destroying one has to wait until the
 * commands that use it are submitted, which `destroyLater` sees to.
 */
export class BufferPool implements StorageHome {
  readonly #device: GPUDevice;
  readonly #onFailure: (error: OutOfMemoryError) => void;
  readonly #destroyLater: (storage: Storage) => void;
  /** By size, the last freed last. */
  readonly #free: Map<number, Storage[]> = new Map<number, Storage[]>();
  /** All of those, in the order in which they were freed. */
  readonly #freed: Set<Storage> = new Set<Storage>();
  readonly #poolLimit: number;
  readonly budget: number;
  #nextId = 1;
  #liveBuffers = 0;
  #liveBytes = 0;
  #pooledBytes = 0;
  #peakBytes = 0;

  constructor(
    device: GPUDevice,
    options: {
      poolLimit: number;
      budget: number;
      destroyLater: (storage: Storage) => void;
      onFailure: (error: OutOfMemoryError) => void;
    },
  ) {
    this.#device = device;
    this.#poolLimit = options.poolLimit;
    this.budget = options.budget;
    this.#destroyLater = options.destroyLater;
    this.#onFailure = options.onFailure;
  }

  /** A buffer of at least `bytes`, with one reference; `exact`: of no more than the next multiple of 256. */
  acquire(who: string, bytes: number, exact: boolean = false): Storage {
    const size = exact ? Math.ceil(bytes / 256) * 256 : bucketSize(bytes);
    const limit = this.#device.limits.maxBufferSize;
    if (size > limit) {
      throw new OutOfMemoryError(
        who,
        `asked for a buffer of ${String(bytes)} bytes; this device allows ${String(limit)} per buffer`,
        bytes,
      );
    }
    const pooled = this.#free.get(size)?.pop();
    if (pooled) {
      this.#freed.delete(pooled);
      this.#pooledBytes -= size;
      pooled.references = 1;
      this.#count(size);
      return pooled;
    }
    if (this.#liveBytes + this.#pooledBytes + size > this.budget) {
      this.trim();
      if (this.#liveBytes + size > this.budget) {
        throw new OutOfMemoryError(
          who,
          `asked for ${String(size)} bytes while ${String(this.#liveBytes)} are live; the memory budget is ${String(this.budget)}`,
          bytes,
        );
      }
    }
    this.#device.pushErrorScope("out-of-memory");
    const buffer = this.#device.createBuffer({
      size,
      usage: BufferUsage.STORAGE | BufferUsage.COPY_SRC | BufferUsage.COPY_DST | BufferUsage.INDIRECT,
    });
    this.#device.popErrorScope().then(
      (error) => {
        if (error)
          this.#onFailure(
            new OutOfMemoryError(who, `the device refused ${String(size)} bytes: ${error.message}`, bytes),
          );
      },
      () => undefined,
    );
    this.#count(size);
    return { id: this.#nextId++, buffer, bytes: size, references: 1, lastUse: 0, home: this };
  }

  #count(size: number): void {
    this.#liveBuffers++;
    this.#liveBytes += size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#liveBytes);
  }

  release(storage: Storage): void {
    this.#liveBuffers--;
    this.#liveBytes -= storage.bytes;
    const list = this.#free.get(storage.bytes);
    if (list) list.push(storage);
    else this.#free.set(storage.bytes, [storage]);
    this.#freed.add(storage);
    this.#pooledBytes += storage.bytes;
    for (const oldest of this.#freed) {
      if (this.#pooledBytes <= this.#poolLimit) break;
      this.#free.get(oldest.bytes)?.shift();
      this.#freed.delete(oldest);
      this.#pooledBytes -= oldest.bytes;
      this.#destroyLater(oldest);
    }
  }

  /** Give every pooled buffer back to the device. */
  trim(): void {
    for (const list of this.#free.values()) for (const storage of list) this.#destroyLater(storage);
    this.#free.clear();
    this.#freed.clear();
    this.#pooledBytes = 0;
  }

  statistics(): MemoryStatistics {
    return {
      liveBuffers: this.#liveBuffers,
      liveBytes: this.#liveBytes,
      pooledBuffers: this.#freed.size,
      pooledBytes: this.#pooledBytes,
      peakBytes: this.#peakBytes,
      budget: this.budget,
    };
  }
}

/**
 * The private pool of a recording: what the recorded step frees stays with the recording, because a replay will
 * write to it again.
 */
export class RecordingPool implements StorageHome {
  readonly #parent: BufferPool;
  readonly #free: Map<number, Storage[]> = new Map<number, Storage[]>();
  readonly #owned: Set<Storage> = new Set<Storage>();

  constructor(parent: BufferPool) {
    this.#parent = parent;
  }

  acquire(who: string, bytes: number, exact: boolean = false): Storage {
    const pooled = exact ? undefined : this.#free.get(bucketSize(bytes))?.pop();
    if (pooled) {
      pooled.references = 1;
      return pooled;
    }
    const storage = this.#parent.acquire(who, bytes, exact);
    storage.home = this;
    this.#owned.add(storage);
    return storage;
  }

  release(storage: Storage): void {
    const list = this.#free.get(storage.bytes);
    if (list) list.push(storage);
    else this.#free.set(storage.bytes, [storage]);
  }

  /** Hand everything back to the device's pool; what is still referred to follows when it is freed. */
  close(): void {
    for (const storage of this.#owned) storage.home = this.#parent;
    for (const list of this.#free.values()) for (const storage of list) this.#parent.release(storage);
    this.#free.clear();
    this.#owned.clear();
  }
}

export function retain(storage: Storage): void {
  storage.references++;
}

export function release(storage: Storage): void {
  storage.references--;
  if (storage.references === 0) storage.home.release(storage);
}
