import { BufferUsage, MAP_MODE_READ } from "../base/constants.js";
import type { CommandQueue } from "./queue.js";
import type { Storage } from "../memory/storage.js";

/** Free buffers that are kept of each size. */
const LIMIT = 8;

/** Copies buffers to the host through staging buffers, which are kept by size. */
export class ReadBack {
  readonly #device: GPUDevice;
  readonly #queue: CommandQueue;
  readonly #wait: <T>(promise: Promise<T>) => Promise<T>;
  readonly #free: Map<number, GPUBuffer[]> = new Map<number, GPUBuffer[]>();

  /** `wait`: waits for a promise of the device, and rejects with a typed error if that fails or the device is lost. */
  constructor(device: GPUDevice, queue: CommandQueue, wait: <T>(promise: Promise<T>) => Promise<T>) {
    this.#device = device;
    this.#queue = queue;
    this.#wait = wait;
  }

  /** Wait for the queued work and copy a buffer's first bytes to the host. */
  async read(storage: Storage, byteLength: number): Promise<ArrayBuffer> {
    if (byteLength === 0) return new ArrayBuffer(0);
    const bytes = Math.ceil(byteLength / 4) * 4;
    const size = Math.max(256, 2 ** Math.ceil(Math.log2(bytes)));
    const free = this.#free.get(size) ?? [];
    this.#free.set(size, free);
    const staging =
      free.pop() ??
      this.#device.createBuffer({ label: "read", size, usage: BufferUsage.MAP_READ | BufferUsage.COPY_DST });
    this.#queue.push({ kind: "copy", from: storage, fromOffset: 0, to: staging, toOffset: 0, bytes });
    try {
      await this.#wait(this.#queue.submitAll());
      await this.#wait(staging.mapAsync(MAP_MODE_READ, 0, bytes));
      await this.#wait(this.#queue.throwFailure());
      const copy = staging.getMappedRange(0, bytes).slice(0);
      staging.unmap();
      if (free.length < LIMIT) free.push(staging);
      else staging.destroy();
      return copy;
    } catch (error) {
      staging.destroy();
      throw error;
    }
  }

  /** Give the staging buffers back to the device. */
  trim(): void {
    for (const list of this.#free.values()) for (const buffer of list.splice(0)) buffer.destroy();
  }
}
