import { BufferUsage, MAP_MODE_READ } from "../base/constants.js";

/** Time of one dispatch, from timestamp queries. */
interface DispatchTime {
  readonly kernel: string;
  readonly milliseconds: number;
}

/** Time that a kernel took in `gpu.profile`. */
export interface KernelTime {
  readonly kernel: string;
  readonly calls: number;
  readonly milliseconds: number;
}

/** Two stamps for each dispatch. */
const STAMPS = 4096;

/** Collects the time of every dispatch by timestamp queries, each dispatch in a pass of its own. */
export class DispatchTimer {
  readonly #device: GPUDevice;
  readonly #times: DispatchTime[] = [];
  readonly #reads: Promise<void>[] = [];
  #open: { readonly set: GPUQuerySet; readonly kernels: string[] } | undefined;

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Where the pass of the next dispatch writes its stamps. */
  stamps(encoder: GPUCommandEncoder, kernel: string): GPUComputePassTimestampWrites {
    if (this.#open?.kernels.length === STAMPS / 2) this.resolve(encoder);
    this.#open ??= {
      set: this.#device.createQuerySet({ type: "timestamp", count: STAMPS }),
      kernels: [],
    };
    const { set, kernels } = this.#open;
    const first = (kernels.push(kernel) - 1) * 2;
    return { querySet: set, beginningOfPassWriteIndex: first, endOfPassWriteIndex: first + 1 };
  }

  /** Have the stamps so far copied to the host: the last commands of an encoder that wrote any. */
  resolve(encoder: GPUCommandEncoder): void {
    if (!this.#open) return;
    const { set, kernels } = this.#open;
    this.#open = undefined;
    const count = kernels.length * 2;
    const buffer = (usage: number): GPUBuffer => this.#device.createBuffer({ size: count * 8, usage });
    const resolved = buffer(BufferUsage.QUERY_RESOLVE | BufferUsage.COPY_SRC);
    const staging = buffer(BufferUsage.MAP_READ | BufferUsage.COPY_DST);
    encoder.resolveQuerySet(set, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, count * 8);
    // Mapping starts once the encoder is submitted.
    const read = Promise.resolve()
      .then(() => staging.mapAsync(MAP_MODE_READ))
      .then(
        () => {
          const stamps = new BigUint64Array(staging.getMappedRange());
          kernels.forEach((kernel, i) => {
            const nanoseconds = (stamps[2 * i + 1] ?? 0n) - (stamps[2 * i] ?? 0n);
            this.#times.push({ kernel, milliseconds: Number(nanoseconds) / 1e6 });
          });
        },
        () => undefined,
      )
      .then(() => {
        staging.destroy();
        resolved.destroy();
        set.destroy();
      });
    this.#reads.push(read);
  }

  /** The time of each kernel once what was encoded has run, longest first. */
  async totals(): Promise<KernelTime[]> {
    await Promise.all(this.#reads);
    const totals = new Map<string, KernelTime>();
    for (const { kernel, milliseconds } of this.#times) {
      const { calls, milliseconds: before } = totals.get(kernel) ?? { calls: 0, milliseconds: 0 };
      totals.set(kernel, { kernel, calls: calls + 1, milliseconds: before + milliseconds });
    }
    return [...totals.values()].sort((a, b) => b.milliseconds - a.milliseconds);
  }
}
