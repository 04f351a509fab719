/// <reference lib="esnext.disposable" preserve="true" />
import { awaitOnCpu } from "#gpu";
import { COPY, type LoadedCopy } from "../base/abi.js";
import { bindRanges } from "../queue/binding.js";
import type { Command } from "../queue/command.js";
import type { CompileLanes } from "../kernel/compile_lanes.js";
import {
  BYTES_PER_ELEMENT,
  checkDType,
  checkKnownDType,
  encode,
  isStoredType,
  STORED_RULE,
  type DType,
} from "../base/dtype.js";
import { ConfigError, DeviceLostError, DTypeError, KernelsError, ShapeError } from "../base/errors.js";
import {
  checkCall,
  packParams,
  workgroupsOf,
  type AdapterDescription,
  type GpuFeatures,
  type Kernel,
  type Bindings,
  type KernelCall,
  type Params,
  type ParamValue,
  type KernelEnvironment,
} from "../kernel/kernel.js";
import { BufferPool, type MemoryStatistics } from "../memory/memory.js";
import { PipelineCache } from "../kernel/pipeline.js";
import { CommandQueue } from "../queue/queue.js";
import { ReadBack } from "../queue/read_back.js";
import { Capture, type Recording } from "./recording.js";
import { collectTensors, Scope } from "../memory/scope.js";
import type { Storage } from "../memory/storage.js";
import { encodeAs } from "../stored/encode.js";
import { checkBlocks, fileBytes, storedBytes } from "../stored/forms.js";
import { pack } from "../stored/pack.js";
import { Tensor } from "../tensor/tensor.js";
import type { KernelTime } from "../queue/timing.js";
import type { Tuning } from "./tuning.js";
import { show } from "../base/show.js";
import {
  checkConfig,
  checkShape,
  expectFunction,
  expectInteger,
  expectTensor,
  showShape,
  sizeOf,
} from "../base/validate.js";

export interface GpuOptions {
  readonly memoryBudget: number;
  readonly poolLimit: number;
  readonly fillWithNaN: boolean;
  readonly lanes?: CompileLanes | undefined;
}

/** Bytes from which data from the host, mostly weights, take a buffer of their own size. */
const EXACT_BYTES = 2 ** 20;

/** A half NaN in both halves, which is also a float32 NaN. */
const NAN_WORD = 0x7fc07fc0;

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
  readonly #readBack: ReadBack;
  #loss: DeviceLostError | undefined;
  #scope: Scope | undefined;
  #capture: Capture | undefined;
  #dry = false;

  /** @internal */
  constructor(device: GPUDevice, info: AdapterDescription, features: GpuFeatures, options: GpuOptions) {
    this.device = device;
    this.info = info;
    this.features = features;
    this.limits = device.limits;
    this.#environment = { features, limits: device.limits, info };
    this.#queue = new CommandQueue(device, () => this.#loss);
    this.#readBack = new ReadBack(device, this.#queue, (promise) => this.#orLost(promise));
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
    this.lost = device.lost.then(({ reason, message }) =>
      reason === "destroyed"
        ? this.#lose("destroyed", reason)
        : this.#lose(`lost${message ? ` (${message})` : ""}`, "unknown"),
    );
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#queue.fail(new KernelsError("gpu", event.error.message));
    });
  }

  // ---- tensors ----------------------------------------------------------------------------------------------

  /**
   * A tensor of host numbers, in row-major order; without a shape it has one axis. bf16, q8_0 and q4_0 are rounded to.
   *
   * @throws ConfigError, ShapeError; DTypeError for an element that is not a number or that the dtype does not hold.
   */
  tensor(data: ArrayLike<number>, shape?: readonly number[], dtype: DType = "f32"): Tensor {
    checkKnownDType("tensor", dtype);
    const bytes = encodeAs("tensor", data, dtype);
    const extents = shape === undefined ? [data.length] : shape;
    checkShape("tensor", extents);
    checkBlocks("tensor", dtype, extents);
    if (data.length !== sizeOf(extents)) {
      throw new ShapeError(
        "tensor",
        `given ${String(data.length)} numbers; shape ${showShape(extents)} takes ${String(sizeOf(extents))}`,
      );
    }
    return this.#ofBuffer(bytes, extents, dtype);
  }

  /**
   * A tensor of little-endian bytes as a checkpoint holds them: two bytes an element of f16 and bf16; the blocks of a
   * GGUF file for quantised forms, whose last axis consists of whole blocks.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  fromBytes(bytes: Uint8Array, shape: readonly number[], dtype: DType): Tensor {
    checkKnownDType("fromBytes", dtype);
    checkShape("fromBytes", shape);
    if (!((bytes as unknown) instanceof Uint8Array))
      throw new ConfigError("fromBytes", `bytes are ${show(bytes)}; they must be a Uint8Array`);
    checkBlocks("fromBytes", dtype, shape);
    const expected = isStoredType(dtype) ? fileBytes(dtype, shape) : sizeOf(shape) * BYTES_PER_ELEMENT[dtype];
    if (bytes.byteLength !== expected && bytes.byteLength !== Math.ceil(expected / 4) * 4) {
      throw new ShapeError(
        "fromBytes",
        `given ${String(bytes.byteLength)} bytes; ${dtype} ${showShape(shape)} takes ${String(expected)}`,
      );
    }
    if (isStoredType(dtype)) return this.#ofBuffer(pack(dtype, bytes, sizeOf(shape)), shape, dtype);
    const padded = new Uint8Array(Math.ceil(bytes.byteLength / 4) * 4);
    padded.set(bytes);
    return this.#ofBuffer(padded, shape, dtype);
  }

  /** A tensor of the bytes that its buffer holds; large ones are not rounded up to a bucket of the pool. */
  #ofBuffer(bytes: Uint8Array<ArrayBuffer>, shape: readonly number[], dtype: DType): Tensor {
    const out = this.#allocate("tensor", shape, dtype, bytes.length >= EXACT_BYTES);
    if (bytes.length > 0) this.writeBytes(out.storage, bytes);
    return out;
  }

  /** An uninitialised tensor, to be written by a kernel. */
  empty(shape: readonly number[], dtype: DType = "f32"): Tensor {
    checkDType("empty", dtype, this.features);
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
    checkDType("zeros", dtype, this.features);
    checkShape("zeros", shape);
    const out = this.#allocate("zeros", shape, dtype);
    this.#push({ kind: "clear", to: out.storage, bytes: Math.ceil(Math.max(4, out.byteLength) / 4) * 4 });
    return out;
  }

  /** A tensor with every element equal to `value`. */
  full(shape: readonly number[], value: number, dtype: DType = "f32"): Tensor {
    checkDType("full", dtype, this.features);
    checkShape("full", shape);
    if (typeof value !== "number")
      throw new ConfigError("full", `value is ${show(value)}; it must be a number`);
    if (Object.is(value, 0)) return this.zeros(shape, dtype);
    const data = new Float64Array(sizeOf(shape)).fill(value);
    return this.#ofBuffer(encode("full", data, dtype), shape, dtype);
  }

  #allocate(who: string, shape: readonly number[], dtype: DType, exact = false): Tensor {
    this.#check();
    const bytes = isStoredType(dtype)
      ? storedBytes(dtype, sizeOf(shape))
      : sizeOf(shape) * BYTES_PER_ELEMENT[dtype];
    const storage = (this.#capture?.pool ?? this.#pool).acquire(who, bytes, exact);
    return new Tensor(this, storage, shape, dtype, this.#scope);
  }

  #check(): void {
    if (this.#loss) throw this.#loss;
  }

  #lose(how: string, reason: "destroyed" | "unknown"): DeviceLostError {
    this.#loss ??= new DeviceLostError(
      "gpu",
      `the device was ${how}; open a new one with openDevice()`,
      reason,
    );
    this.#queue.abandon();
    return this.#loss;
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
    expectFunction("scope", "fn", fn);
    return this.within(fn);
  }

  /** `scope`, with the scope handed to the function. @internal */
  within<T>(fn: (scope: Scope) => T, who = "scope"): T {
    const parent = this.#scope;
    const scope = new Scope(parent);
    this.#scope = scope;
    try {
      const result = fn(scope);
      if (result instanceof Promise) {
        result.catch(() => undefined);
        throw new ConfigError(
          who,
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
    expectTensor("keep", "tensor", tensor);
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
    this.#readBack.trim();
  }

  // ---- kernels ----------------------------------------------------------------------------------------------

  /** Queue one dispatch of a kernel. */
  run<V, B extends Bindings, P extends Params>(kernel: Kernel<V, B, P>, call: KernelCall<V, B, P>): void {
    this.#check();
    checkCall(kernel, call);
    const name = kernel.source.name;
    const entry = this.#pipelines.get(kernel, call.variant as V);
    if (entry.failure) throw entry.failure;
    if (this.#dry) return;
    const [x, y, z] = workgroupsOf(name, call, this.limits.maxComputeWorkgroupsPerDimension);
    if (x === 0 || y === 0 || z === 0) return;
    this.#push({
      kind: "dispatch",
      entry,
      ranges: bindRanges(this, name, entry.bindings, call.bindings),
      words:
        entry.params.words > 0
          ? packParams(name, entry.params, (call.params ?? {}) as Readonly<Record<string, ParamValue>>)
          : undefined,
      groups: [x, y, z],
      indirect: call.indirect && { storage: call.indirect.tensor.storage, offset: call.indirect.offset ?? 0 },
    });
  }

  #push(command: Command): void {
    if (this.#dry && command.kind === "copy") return;
    this.#capture?.commands.push(command);
    this.#queue.push(command);
  }

  #write(storage: Storage, data: Uint8Array<ArrayBuffer>): void {
    if (this.#capture) this.#push({ kind: "write", to: storage, offset: 0, data: data.slice() });
    else this.#queue.write(storage, 0, data);
  }

  /** True while `record` runs its function. @internal */
  get recording(): boolean {
    return this.#capture !== undefined;
  }

  /** Overwrite the start of a buffer in queue order. @internal */
  writeBytes(storage: Storage, data: Uint8Array<ArrayBuffer>): void {
    this.#check();
    if (this.#capture && storage.home !== this.#capture.pool)
      throw new ConfigError(
        "write",
        "was called inside a recording, on a tensor from outside it: the data would be frozen, and each replay would " +
          "write them again; write before the replay instead",
      );
    this.#write(storage, data);
  }

  /** Copy bytes between tensors in queue order (offsets and lengths in elements, multiples of four bytes). */
  copy(
    from: Tensor,
    to: Tensor,
    options: { fromOffset?: number; toOffset?: number; length?: number } = {},
  ): void {
    this.#check();
    expectTensor("copy", "from", from);
    expectTensor("copy", "to", to);
    checkConfig("copy", options, ["fromOffset", "toOffset", "length"]);
    const { fromOffset = 0, toOffset = 0 } = options;
    expectInteger("copy", "fromOffset", fromOffset, 0);
    expectInteger("copy", "toOffset", toOffset, 0);
    if (isStoredType(from.dtype)) throw new DTypeError("copy", `from is ${from.dtype}, ${STORED_RULE}`);
    const { length = from.size - fromOffset } = options;
    expectInteger("copy", "length", length);
    const width = BYTES_PER_ELEMENT[from.dtype];
    if (from.dtype !== to.dtype)
      throw new DTypeError("copy", `from is ${from.dtype}, to is ${to.dtype}; they must be equal`);
    if (length < 0 || fromOffset + length > from.size || toOffset + length > to.size) {
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
    return this.#readBack.read(storage, byteLength);
  }

  // ---- whole steps ------------------------------------------------------------------------------------------

  /**
   * Run `fn` and keep its dispatches for replay. Buffers that it frees stay with the recording; tensors from
   * outside (parameters, caches) are used as they are at each replay, so write new inputs into them with
   * `tensor.write`. Numbers of the host are frozen (arguments of ops, seeds, data of `gpu.tensor`): what changes from
   * step to step has to be in a tensor from outside.
   */
  record<T>(fn: () => T): Recording<T> {
    this.#check();
    expectFunction("record", "fn", fn);
    if (this.#capture)
      throw new ConfigError("record", "was called inside another recording; recordings do not nest");
    const capture = new Capture(this.#pool);
    this.#capture = capture;
    const outer = this.#scope;
    this.#scope = undefined;
    let outputs: T;
    try {
      outputs = this.within(fn, "record");
    } catch (error) {
      capture.close();
      throw error;
    } finally {
      this.#capture = undefined;
      this.#scope = outer;
    }
    return capture.finish(outputs, collectTensors(outputs, Tensor.isInstance), (commands) => {
      this.#check();
      for (const command of commands) this.#queue.push(command);
    });
  }

  /**
   * Compile every pipeline that `fn` needs before its first real run. `fn` is called with dispatches left out;
   * its result is discarded, so it must not change state that later steps rely on.
   */
  async warmup(fn: () => unknown, onProgress?: (done: number, total: number) => void): Promise<void> {
    this.#check();
    expectFunction("warmup", "fn", fn);
    if (onProgress !== undefined) expectFunction("warmup", "onProgress", onProgress);
    this.#dry = true;
    try {
      this.#discard("warmup", fn);
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

  /** Run `fn` in a scope that keeps nothing of what it returns. */
  #discard(who: string, fn: () => unknown): void {
    void this.within(() => {
      const result = fn();
      return result instanceof Promise ? result : undefined;
    }, who);
  }

  /** Run `fn` and measure every kernel with timestamp queries; longest first. */
  async profile(fn: () => unknown): Promise<KernelTime[]> {
    expectFunction("profile", "fn", fn);
    if (!this.features.timestampQuery) {
      throw new ConfigError(
        "profile",
        `the adapter ${this.info.name} has no timestamp queries, by which kernels are timed`,
      );
    }
    await this.sync();
    const timer = this.#queue.startTiming();
    try {
      this.#discard("profile", fn);
      await this.sync();
    } finally {
      this.#queue.stopTiming();
    }
    return this.#orLost(timer.totals());
  }

  /** Dispatches, submits, cached bind groups and pipelines so far. */
  counters(): { dispatches: number; submits: number; bindGroups: number; pipelines: number } {
    return { ...this.#queue.counts, pipelines: this.#pipelines.size };
  }

  /** Free the device and everything on it. */
  destroy(): void {
    this.#lose("destroyed", "destroyed");
    this.device.destroy();
  }

  [Symbol.dispose](): void {
    this.destroy();
  }
}
