import { awaitOnCpu } from "#gpu";
import { COPY, type LoadedCopy } from "./abi.js";
import type { CompileLanes } from "./compile_lanes.js";
import { BufferUsage, MAP_MODE_READ } from "./constants.js";
import { BYTES_PER_ELEMENT, checkDType, encode, type DType } from "./dtype.js";
import { ConfigError, DeviceLostError, KernelsError, OutOfMemoryError, ShapeError } from "./errors.js";
import {
  packParams,
  type AdapterDescription,
  type Bindable,
  type GpuFeatures,
  type Kernel,
  type KernelCall,
  type KernelEnvironment,
} from "./kernel.js";
import { BufferPool, RecordingPool, release, retain, type MemoryStatistics } from "./memory.js";
import { PipelineCache } from "./pipeline.js";
import { CommandQueue, storagesOf, type BoundRange, type Command } from "./queue.js";
import { collectTensors, Scope } from "./scope.js";
import type { Storage } from "./storage.js";
import { Tensor } from "./tensor.js";
import type { Tuning } from "./tune.js";
import { checkShape, showShape, sizeOf } from "./validate.js";

export interface GpuOptions {
  readonly memoryBudget: number;
  readonly poolLimit: number;
  readonly fillWithNaN: boolean;
  readonly lanes?: CompileLanes | undefined;
}

/** Time that a kernel took in `gpu.profile`. */
export interface KernelTime {
  readonly kernel: string;
  readonly calls: number;
  readonly milliseconds: number;
}

/** A recorded sequence of dispatches; see `Gpu.record`. */
export interface Recording<T> {
  /** What the recorded function returned; the same tensors hold the results of every replay. */
  readonly outputs: T;
  /** Queue the same dispatches on the same buffers again. */
  replay(): void;
  /** Free the recording and its outputs. */
  dispose(): void;
  [Symbol.dispose](): void;
}

/** A half NaN in both halves, which is also a float32 NaN. */
const NAN_WORD = 0x7fc07fc0;
const STAGING_LIMIT = 8;

/**
 * An open device: makes tensors, runs kernels, owns the memory pool and the pipeline and bind-group caches.
 * Get one from `openDevice()`.
 */
export class Gpu {
  readonly info: AdapterDescription;
  readonly features: GpuFeatures;
  readonly limits: GPUSupportedLimits;
  /** What `tune` measured here; undefined until then. */
  tuning: Tuning | undefined;
  /** The device itself, for use together with other WebGPU code. */
  readonly device: GPUDevice;
  /** Resolves when the device is lost, also after `destroy()`. */
  readonly lost: Promise<DeviceLostError>;
  /** The copy of the package that opened the device. @internal */
  readonly loadedCopy: LoadedCopy = COPY;
  readonly #environment: KernelEnvironment;
  readonly #pool: BufferPool;
  readonly #pipelines: PipelineCache;
  readonly #queue: CommandQueue;
  readonly #fillWithNaN: boolean;
  readonly #staging: Map<number, GPUBuffer[]> = new Map<number, GPUBuffer[]>();
  #loss: DeviceLostError | undefined;
  #scope: Scope | undefined;
  #capture: { commands: Command[]; pool: RecordingPool } | undefined;
  #dry = false;

  /** @internal */
  constructor(device: GPUDevice, info: AdapterDescription, features: GpuFeatures, options: GpuOptions) {
    this.device = device;
    this.info = info;
    this.features = features;
    this.limits = device.limits;
    this.#environment = { features, limits: device.limits, info };
    this.#queue = new CommandQueue(device, () => this.#loss);
    this.#pipelines = new PipelineCache(device, this.#environment, options.lanes);
    this.#pool = new BufferPool(device, {
      poolLimit: options.poolLimit,
      budget: options.memoryBudget,
      destroyLater: (storage) => {
        this.#queue.destroyLater(storage);
      },
      onFailure: (error) => {
        this.#queue.fail(error);
      },
    });
    this.#fillWithNaN = options.fillWithNaN;
    this.lost = device.lost.then((info) => {
      this.#loss ??= new DeviceLostError(
        "gpu",
        info.reason === "destroyed"
          ? "the device was destroyed; open a new one with openDevice()"
          : `the device was lost${info.message ? ` (${info.message})` : ""}; open a new one with openDevice()`,
        info.reason === "destroyed" ? "destroyed" : "unknown",
      );
      this.#queue.abandon();
      return this.#loss;
    });
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#queue.fail(new KernelsError("gpu", event.error.message));
    });
  }

  // ---- tensors ----------------------------------------------------------------------------------------------

  /** A tensor of host numbers, in row-major order. */
  tensor(data: ArrayLike<number>, shape: readonly number[], dtype: DType = "f32"): Tensor {
    checkDType("tensor", dtype);
    checkShape("tensor", shape);
    if (data.length !== sizeOf(shape)) {
      throw new ShapeError(
        "tensor",
        `given ${String(data.length)} numbers; shape ${showShape(shape)} takes ${String(sizeOf(shape))}`,
      );
    }
    return this.fromBytes(encode(data, dtype), shape, dtype);
  }

  /** A tensor of little-endian bytes as a checkpoint holds them (f16 takes two bytes an element). */
  fromBytes(bytes: Uint8Array, shape: readonly number[], dtype: DType): Tensor {
    checkDType("tensor", dtype);
    checkShape("tensor", shape);
    const expected = sizeOf(shape) * BYTES_PER_ELEMENT[dtype];
    if (bytes.byteLength !== expected && bytes.byteLength !== Math.ceil(expected / 4) * 4) {
      throw new ShapeError(
        "tensor",
        `given ${String(bytes.byteLength)} bytes; ${dtype} ${showShape(shape)} takes ${String(expected)}`,
      );
    }
    const out = this.#allocate("tensor", shape, dtype);
    const padded = new Uint8Array(Math.ceil(bytes.byteLength / 4) * 4);
    padded.set(bytes);
    if (padded.length > 0) this.writeBytes(out.storage, padded);
    return out;
  }

  /** An uninitialised tensor, to be written by a kernel. */
  empty(shape: readonly number[], dtype: DType = "f32"): Tensor {
    checkDType("empty", dtype);
    checkShape("empty", shape);
    const out = this.#allocate("empty", shape, dtype);
    if (this.#fillWithNaN) {
      const words = new Uint32Array(out.storage.bytes / 4).fill(NAN_WORD);
      this.#write(out.storage, new Uint8Array(words.buffer));
    }
    return out;
  }

  /** A tensor of zeros. */
  zeros(shape: readonly number[], dtype: DType = "f32"): Tensor {
    checkDType("zeros", dtype);
    checkShape("zeros", shape);
    const out = this.#allocate("zeros", shape, dtype);
    this.#push({ kind: "clear", to: out.storage, bytes: Math.ceil(Math.max(4, out.byteLength) / 4) * 4 });
    return out;
  }

  /** A tensor with every element equal to `value`. */
  full(shape: readonly number[], value: number, dtype: DType = "f32"): Tensor {
    if (value === 0 && !Object.is(value, -0)) return this.zeros(shape, dtype);
    checkShape("full", shape);
    return this.tensor(new Float64Array(sizeOf(shape)).fill(value), shape, dtype);
  }

  #allocate(who: string, shape: readonly number[], dtype: DType): Tensor {
    this.#check();
    const bytes = sizeOf(shape) * BYTES_PER_ELEMENT[dtype];
    const storage = this.#capture ? this.#capture.pool.acquire(who, bytes) : this.#pool.acquire(who, bytes);
    return new Tensor(this, storage, shape, dtype, this.#scope);
  }

  #check(): void {
    if (this.#loss) throw this.#loss;
  }

  // ---- lifetime ---------------------------------------------------------------------------------------------

  /** The innermost open scope. @internal */
  get currentScope(): Scope | undefined {
    return this.#scope;
  }

  /**
   * Run `fn` and free every tensor made inside, except those in what it returns (a tensor, or arrays, maps and
   * plain objects of them), which pass to the surrounding scope. `fn` must not be asynchronous.
   */
  scope<T>(fn: () => T): T {
    return this.within(fn);
  }

  /** `scope`, with the scope handed to the function. @internal */
  within<T>(fn: (scope: Scope) => T): T {
    const parent = this.#scope;
    const scope = new Scope(parent);
    this.#scope = scope;
    try {
      const result = fn(scope);
      if (result instanceof Promise) {
        result.catch(() => undefined);
        throw new ConfigError(
          "scope",
          "the function returned a promise; a scope ends when its function returns, so await outside it",
        );
      }
      for (const tensor of collectTensors(result, Tensor.isInstance)) {
        if (scope.tensors.has(tensor)) tensor.moveTo(parent);
      }
      return result;
    } finally {
      this.#scope = parent;
      for (const ending of scope.endings) ending();
      for (const tensor of [...scope.tensors]) tensor.dispose();
    }
  }

  /** Take a tensor out of its scope: the caller disposes it. For parameters, caches and optimizer state. */
  keep<T extends Tensor>(tensor: T): T {
    tensor.moveTo(undefined);
    return tensor;
  }

  /** Live and pooled buffers and bytes. */
  memory(): MemoryStatistics {
    return this.#pool.statistics();
  }

  /** Give the pool's free buffers back to the device. */
  trim(): void {
    this.#pool.trim();
    for (const list of this.#staging.values()) for (const buffer of list) buffer.destroy();
    this.#staging.clear();
  }

  // ---- kernels ----------------------------------------------------------------------------------------------

  /** Queue one dispatch of a kernel. */
  run<V>(kernel: Kernel<V>, call: KernelCall<V>): void {
    this.#check();
    const name = kernel.source.name;
    const entry = this.#pipelines.get(kernel, call.variant as V);
    if (this.#dry) return;
    const [x, y = 1, z = 1] = call.indirect ? [1] : (call.workgroups ?? [1]);
    if (x === 0 || y === 0 || z === 0) return;
    const limit = this.limits.maxComputeWorkgroupsPerDimension;
    if (x > limit || y > limit || z > limit || !Number.isInteger(x * y * z)) {
      throw new ConfigError(
        name,
        `workgroups are [${String(x)}, ${String(y)}, ${String(z)}]; each must be an integer of at most ${String(limit)}`,
      );
    }
    const ranges: BoundRange[] = [];
    for (const binding of entry.bindings) {
      const given = call.bindings[binding.name];
      if (given === undefined) throw new ConfigError(name, `binding ${binding.name} is missing`);
      ranges.push(this.#range(name, binding.name, given));
    }
    for (let i = 0; i < ranges.length; i++) {
      for (let j = 0; j < i; j++) {
        if (ranges[i]?.storage !== ranges[j]?.storage) continue;
        const a = entry.bindings[i];
        const b = entry.bindings[j];
        if (a?.access === "read" && b?.access === "read") continue;
        throw new ConfigError(
          name,
          `bindings ${String(b?.name)} and ${String(a?.name)} are the same buffer and one of them is written`,
        );
      }
    }
    this.#push({
      kind: "dispatch",
      entry,
      ranges,
      words: entry.params.words > 0 ? packParams(name, entry.params, call.params ?? {}) : undefined,
      groups: [x, y, z],
      indirect: call.indirect && { storage: call.indirect.tensor.storage, offset: call.indirect.offset ?? 0 },
    });
  }

  #range(kernel: string, name: string, given: Bindable): BoundRange {
    const whole = given instanceof Tensor || !("tensor" in given);
    const tensor = whole ? given : given.tensor;
    if (tensor.gpu !== this) throw new KernelsError(kernel, `${name} is on another device`);
    const storage = tensor.storage;
    const width = BYTES_PER_ELEMENT[tensor.dtype];
    const offset = whole ? 0 : given.offset * width;
    const length = whole ? tensor.byteLength : given.length * width;
    if (!whole) {
      const alignment = this.limits.minStorageBufferOffsetAlignment;
      if (offset % alignment !== 0 || offset + length > tensor.byteLength || offset < 0) {
        throw new ConfigError(
          kernel,
          `${name} binds elements ${String(given.offset)}..${String(given.offset + given.length)} of ${String(tensor.size)}; ` +
            `the range must lie inside and start at a multiple of ${String(alignment)} bytes`,
        );
      }
    }
    const size = Math.min(Math.ceil(Math.max(length, 16) / 16) * 16, storage.bytes - offset);
    if (size > this.limits.maxStorageBufferBindingSize) {
      throw new OutOfMemoryError(
        kernel,
        `${name} of shape ${showShape(tensor.shape)} takes ${String(size)} bytes; this device binds at most ${String(this.limits.maxStorageBufferBindingSize)}`,
        size,
      );
    }
    return { storage, offset, size };
  }

  #push(command: Command): void {
    if (this.#dry && command.kind === "copy") return;
    this.#capture?.commands.push(command);
    this.#queue.push(command);
  }

  #write(storage: Storage, data: Uint8Array<ArrayBuffer>): void {
    if (this.#capture) this.#push({ kind: "write", to: storage, offset: 0, data });
    else this.#queue.write(storage, 0, data);
  }

  /** Overwrite the start of a buffer in queue order. @internal */
  writeBytes(storage: Storage, data: Uint8Array<ArrayBuffer>): void {
    this.#check();
    this.#write(storage, data);
  }

  /** Copy bytes between tensors in queue order (offsets and lengths in elements, multiples of four bytes). */
  copy(
    from: Tensor,
    to: Tensor,
    options: { fromOffset?: number; toOffset?: number; length?: number } = {},
  ): void {
    this.#check();
    const width = BYTES_PER_ELEMENT[from.dtype];
    const { fromOffset = 0, toOffset = 0, length = from.size - fromOffset } = options;
    if (from.dtype !== to.dtype)
      throw new ConfigError("copy", `from is ${from.dtype}, to is ${to.dtype}; they must be equal`);
    if (fromOffset < 0 || toOffset < 0 || fromOffset + length > from.size || toOffset + length > to.size) {
      throw new ShapeError(
        "copy",
        `elements ${String(fromOffset)}+${String(length)} of ${String(from.size)} to ${String(toOffset)}+${String(length)} of ${String(to.size)} do not fit`,
      );
    }
    let bytes = length * width;
    if (bytes % 4 !== 0 && fromOffset + length === from.size && toOffset + length === to.size) bytes += 2;
    if ((fromOffset * width) % 4 !== 0 || (toOffset * width) % 4 !== 0 || bytes % 4 !== 0) {
      throw new ShapeError("copy", "offsets and length must be multiples of four bytes");
    }
    if (bytes === 0) return;
    this.#push({
      kind: "copy",
      from: from.storage,
      fromOffset: fromOffset * width,
      to: to.storage,
      toOffset: toOffset * width,
      bytes,
    });
  }

  // ---- waiting ----------------------------------------------------------------------------------------------

  /** Submit what is queued; reads do so by themselves. */
  flush(): void {
    this.#queue.submit();
  }

  /** Wait until the GPU has finished everything; rejects with the typed error if anything failed. */
  async sync(): Promise<void> {
    this.#check();
    await this.#orLost(this.#queue.submitAll());
    await this.#orLost(this.device.queue.onSubmittedWorkDone());
    await this.#orLost(this.#queue.throwFailure());
  }

  async #orLost<T>(promise: Promise<T>): Promise<T> {
    const lost = this.lost.then((error): never => {
      throw error;
    });
    lost.catch(() => undefined);
    try {
      const first = Promise.race([promise, lost]);
      return await (this.info.software ? awaitOnCpu(first) : first);
    } catch (error) {
      promise.catch(() => undefined);
      if (KernelsError.isInstance(error)) throw error;
      // A refused map is how a lost device shows first; its own promise follows.
      const loss = await Promise.race([
        this.lost,
        new Promise<undefined>((resolve) => setTimeout(resolve, 250, undefined)),
      ]);
      throw (
        loss ??
        new KernelsError("gpu", `waiting failed: ${error instanceof Error ? error.message : String(error)}`, {
          cause: error,
        })
      );
    }
  }

  /** Wait for the queued work and copy a buffer's first bytes to the host. @internal */
  async readBytes(storage: Storage, byteLength: number): Promise<ArrayBuffer> {
    this.#check();
    if (byteLength === 0) return new ArrayBuffer(0);
    const bytes = Math.ceil(byteLength / 4) * 4;
    const size = Math.max(256, 2 ** Math.ceil(Math.log2(bytes)));
    const staging =
      this.#staging.get(size)?.pop() ??
      this.device.createBuffer({ label: "read", size, usage: BufferUsage.MAP_READ | BufferUsage.COPY_DST });
    this.#queue.push({ kind: "copy", from: storage, fromOffset: 0, to: staging, toOffset: 0, bytes });
    let usable = true;
    try {
      await this.#orLost(this.#queue.submitAll());
      await this.#orLost(staging.mapAsync(MAP_MODE_READ, 0, bytes));
      await this.#orLost(this.#queue.throwFailure());
      const copy = staging.getMappedRange(0, bytes).slice(0);
      staging.unmap();
      return copy;
    } catch (error) {
      usable = false;
      staging.destroy();
      throw error;
    } finally {
      if (usable) {
        const list = this.#staging.get(size) ?? [];
        this.#staging.set(size, list);
        if (list.length < STAGING_LIMIT) list.push(staging);
        else staging.destroy();
      }
    }
  }

  // ---- whole steps ------------------------------------------------------------------------------------------

  /**
   * Run `fn` and keep its dispatches for replay. Buffers that it frees stay with the recording; tensors from
   * outside (parameters, caches) are used as they are at each replay, so write new inputs into them with
   * `tensor.write`. Uniform parameters are frozen: what changes from step to step has to be in a tensor.
   */
  record<T>(fn: () => T): Recording<T> {
    this.#check();
    if (this.#capture) throw new ConfigError("record", "recordings do not nest");
    const capture = { commands: [] as Command[], pool: new RecordingPool(this.#pool) };
    this.#capture = capture;
    const outer = this.#scope;
    this.#scope = undefined;
    let outputs: T;
    try {
      outputs = this.scope(fn);
    } catch (error) {
      capture.pool.close();
      throw error;
    } finally {
      this.#capture = undefined;
      this.#scope = outer;
    }
    const held = new Set<Storage>();
    for (const command of capture.commands) {
      for (const storage of storagesOf(command)) if (storage.home !== capture.pool) held.add(storage);
    }
    for (const storage of held) retain(storage);
    const tensors = [...collectTensors(outputs, Tensor.isInstance)];
    let open = true;
    const dispose = (): void => {
      if (!open) return;
      open = false;
      for (const tensor of tensors) tensor.dispose();
      capture.pool.close();
      for (const storage of held) release(storage);
    };
    return {
      outputs,
      replay: () => {
        if (!open) throw new ConfigError("record", "replay after dispose");
        this.#check();
        for (const command of capture.commands) this.#queue.push(command);
      },
      dispose,
      [Symbol.dispose]: dispose,
    };
  }

  /**
   * Compile every pipeline that `fn` needs before its first real run. `fn` is called with dispatches left out;
   * its result is discarded, so it must not change state that later steps rely on.
   */
  async warmup(fn: () => unknown, onProgress?: (done: number, total: number) => void): Promise<void> {
    this.#check();
    this.#dry = true;
    try {
      this.scope(() => {
        fn();
      });
    } finally {
      this.#dry = false;
    }
    const pending = [...this.#pipelines.pending];
    let done = 0;
    onProgress?.(0, pending.length);
    await this.#orLost(
      Promise.all(
        pending.map(async (entry) => {
          await entry.ready;
          onProgress?.(++done, pending.length);
        }),
      ),
    );
    const failed = pending.find((entry) => entry.failure);
    if (failed?.failure) throw failed.failure;
  }

  /** Run `fn` and measure every kernel with timestamp queries; longest first. */
  async profile(fn: () => unknown): Promise<KernelTime[]> {
    if (!this.features.timestampQuery) {
      throw new ConfigError("profile", `the adapter ${this.info.name} has no timestamp queries`);
    }
    await this.sync();
    const times = this.#queue.startTiming();
    try {
      this.scope(() => {
        fn();
      });
      await this.sync();
    } finally {
      this.#queue.stopTiming();
    }
    const totals = new Map<string, { calls: number; milliseconds: number }>();
    for (const { kernel, milliseconds } of times) {
      const total = totals.get(kernel) ?? { calls: 0, milliseconds: 0 };
      totals.set(kernel, { calls: total.calls + 1, milliseconds: total.milliseconds + milliseconds });
    }
    return [...totals]
      .map(([kernel, total]) => ({ kernel, ...total }))
      .sort((a, b) => b.milliseconds - a.milliseconds);
  }

  /** Dispatches, submits, cached bind groups and pipelines so far. */
  counters(): { dispatches: number; submits: number; bindGroups: number; pipelines: number } {
    return { ...this.#queue.counts, pipelines: this.#pipelines.size };
  }

  /** Free the device and everything on it. */
  destroy(): void {
    this.#loss ??= new DeviceLostError(
      "gpu",
      "the device was destroyed; open a new one with openDevice()",
      "destroyed",
    );
    this.#queue.abandon();
    this.device.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }
}
