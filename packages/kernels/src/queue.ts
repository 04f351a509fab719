import { BufferUsage, MAP_MODE_READ } from "./constants.js";
import { DeviceLostError, GpuValidationError, KernelsError } from "./errors.js";
import type { PipelineEntry } from "./pipeline.js";
import type { Storage } from "./storage.js";

/** Part of a storage that a dispatch binds, in bytes. */
export interface BoundRange {
  readonly storage: Storage;
  readonly offset: number;
  readonly size: number;
}

export interface DispatchCommand {
  readonly kind: "dispatch";
  readonly entry: PipelineEntry;
  readonly ranges: readonly BoundRange[];
  readonly words: Uint32Array<ArrayBuffer> | undefined;
  readonly groups: readonly [number, number, number];
  readonly indirect: { readonly storage: Storage; readonly offset: number } | undefined;
}

export interface CopyCommand {
  readonly kind: "copy";
  readonly from: Storage;
  readonly fromOffset: number;
  readonly to: Storage | GPUBuffer;
  readonly toOffset: number;
  readonly bytes: number;
}

export interface WriteCommand {
  readonly kind: "write";
  readonly to: Storage;
  readonly offset: number;
  readonly data: Uint8Array<ArrayBuffer>;
}

export interface ClearCommand {
  readonly kind: "clear";
  readonly to: Storage;
  readonly bytes: number;
}

/** One entry of the command list; executed strictly in the order in which it was queued. */
export type Command = DispatchCommand | CopyCommand | WriteCommand | ClearCommand;

/** Time of one dispatch, from timestamp queries. */
export interface DispatchTime {
  readonly kernel: string;
  readonly milliseconds: number;
}

function isStorage(target: Storage | GPUBuffer): target is Storage {
  return "references" in target;
}

/** The storages that a command touches. */
export function* storagesOf(command: Command): Generator<Storage> {
  switch (command.kind) {
    case "dispatch":
      for (const range of command.ranges) yield range.storage;
      if (command.indirect) yield command.indirect.storage;
      return;
    case "copy":
      yield command.from;
      if (isStorage(command.to)) yield command.to;
      return;
    case "write":
    case "clear":
      yield command.to;
  }
}

const ARENA_BYTES = 65536;
const AUTO_SUBMIT = 64;
const BIND_GROUP_LIMIT = 4096;
const QUERY_COUNT = 4096;

/**
 * The ordered list of commands of a device. Nothing is encoded before it can run: a dispatch whose pipeline is
 * still being compiled holds back what follows it, so the whole first step is queued, and all its pipelines are
 * compiled side by side, before the first wait.
 *
 * Uniform parameters of a batch lie in one arena that is written once per submit; bind groups are cached by
 * layout and buffers.
 */
export class CommandQueue {
  readonly #device: GPUDevice;
  readonly #lost: () => DeviceLostError | undefined;
  readonly #arena: GPUBuffer;
  readonly #arenaBytes: Uint8Array<ArrayBuffer> = new Uint8Array(ARENA_BYTES);
  readonly #arenaWords: Uint32Array<ArrayBuffer>;
  readonly #slot: number;
  readonly #bindGroups: Map<string, GPUBindGroup> = new Map<string, GPUBindGroup>();
  readonly #commands: Command[] = [];
  readonly #checks: Set<Promise<void>> = new Set<Promise<void>>();
  readonly #doomed: Storage[] = [];
  readonly #waiters: { serial: number; resolve: () => void }[] = [];
  /** Serial of the last queued command; commands count from 1. */
  #queued = 0;
  /** Serial of the last submitted command. */
  #submitted = 0;
  #waitingFor: PipelineEntry | undefined;
  #failure: KernelsError | undefined;
  #times: DispatchTime[] | undefined;
  #dispatches = 0;
  #submits = 0;

  constructor(device: GPUDevice, lost: () => DeviceLostError | undefined) {
    this.#device = device;
    this.#lost = lost;
    this.#slot = Math.max(16, device.limits.minUniformBufferOffsetAlignment);
    this.#arena = device.createBuffer({
      label: "parameters",
      size: ARENA_BYTES,
      usage: BufferUsage.UNIFORM | BufferUsage.COPY_DST,
    });
    this.#arenaWords = new Uint32Array(this.#arenaBytes.buffer);
  }

  /** Dispatches and submits so far. */
  get counts(): { dispatches: number; submits: number; bindGroups: number } {
    return { dispatches: this.#dispatches, submits: this.#submits, bindGroups: this.#bindGroups.size };
  }

  push(command: Command): number {
    const serial = ++this.#queued;
    for (const storage of storagesOf(command)) storage.lastUse = serial;
    if (command.kind === "write" && this.#commands.length === 0) {
      // Nothing is waiting: the write keeps its place in the device's own queue.
      this.#device.queue.writeBuffer(command.to.buffer, command.offset, command.data);
      this.#submitted = serial;
      return serial;
    }
    this.#commands.push(command);
    if (this.#commands.length >= AUTO_SUBMIT && this.#times === undefined) this.submit();
    return serial;
  }

  /** Write to a buffer in queue order; at once if no queued command touches it. */
  write(to: Storage, offset: number, data: Uint8Array<ArrayBuffer>): void {
    if (to.lastUse <= this.#submitted) {
      this.#device.queue.writeBuffer(to.buffer, offset, data);
      return;
    }
    this.push({ kind: "write", to, offset, data });
  }

  /** Destroy a buffer once the commands that use it are submitted. */
  destroyLater(storage: Storage): void {
    if (storage.lastUse <= this.#submitted) storage.buffer.destroy();
    else this.#doomed.push(storage);
  }

  fail(error: KernelsError): void {
    this.#failure ??= error;
  }

  /** Submit what can run now; the rest follows when its pipelines are compiled. */
  submit(): void {
    if (this.#lost()) {
      this.#abandon();
      return;
    }
    while (this.#commands.length > 0) {
      const count = this.#runnable();
      if (count > 0) this.#encode(this.#commands.splice(0, count));
      const next = this.#commands[0];
      if (
        next === undefined ||
        (next.kind === "dispatch" && next.entry.pipeline === undefined && !next.entry.failure)
      )
        break;
    }
    this.#settle();
    const blocked = this.#commands[0];
    if (blocked?.kind === "dispatch" && this.#waitingFor !== blocked.entry) {
      this.#waitingFor = blocked.entry;
      void blocked.entry.ready.then(() => {
        this.#waitingFor = undefined;
        this.submit();
      });
    }
  }

  #runnable(): number {
    let count = 0;
    for (const command of this.#commands) {
      if (command.kind === "dispatch") {
        if (command.entry.failure) this.fail(command.entry.failure);
        else if (command.entry.pipeline === undefined) break;
      }
      count++;
    }
    return count;
  }

  #settle(): void {
    for (let i = this.#waiters.length - 1; i >= 0; i--) {
      const waiter = this.#waiters[i];
      if (waiter && waiter.serial <= this.#submitted) {
        this.#waiters.splice(i, 1);
        waiter.resolve();
      }
    }
    for (let i = this.#doomed.length - 1; i >= 0; i--) {
      const storage = this.#doomed[i];
      if (storage && storage.lastUse <= this.#submitted) {
        this.#doomed.splice(i, 1);
        storage.buffer.destroy();
      }
    }
  }

  /** The device is gone: drop everything, wake whoever waits. */
  #abandon(): void {
    this.#commands.length = 0;
    this.#submitted = this.#queued;
    this.#bindGroups.clear();
    this.#settle();
  }

  #bindGroup(command: DispatchCommand): GPUBindGroup {
    const { entry, ranges } = command;
    let key = String(entry.id);
    for (const range of ranges)
      key += `,${String(range.storage.id)}:${String(range.offset)}:${String(range.size)}`;
    let group = this.#bindGroups.get(key);
    if (group) return group;
    const entries: GPUBindGroupEntry[] = ranges.map((range, i) => ({
      binding: i + 1,
      resource: { buffer: range.storage.buffer, offset: range.offset, size: range.size },
    }));
    if (entry.params.words > 0) {
      entries.push({
        binding: 0,
        resource: { buffer: this.#arena, offset: 0, size: entry.params.words * 4 },
      });
    }
    group = this.#device.createBindGroup({ label: entry.name, layout: entry.layout, entries });
    if (this.#bindGroups.size >= BIND_GROUP_LIMIT) {
      let drop = BIND_GROUP_LIMIT / 4;
      for (const old of this.#bindGroups.keys()) {
        if (drop-- <= 0) break;
        this.#bindGroups.delete(old);
      }
    }
    this.#bindGroups.set(key, group);
    return group;
  }

  #encode(commands: readonly Command[]): void {
    const device = this.#device;
    const names = new Set<string>();
    device.pushErrorScope("validation");
    device.pushErrorScope("out-of-memory");
    let encoder: GPUCommandEncoder | undefined;
    let pass: GPUComputePassEncoder | undefined;
    let arenaUsed = 0;
    const endPass = (): void => {
      pass?.end();
      pass = undefined;
    };
    const flush = (): void => {
      endPass();
      if (!encoder) return;
      if (arenaUsed > 0) device.queue.writeBuffer(this.#arena, 0, this.#arenaBytes, 0, arenaUsed);
      device.queue.submit([encoder.finish()]);
      this.#submits++;
      encoder = undefined;
      arenaUsed = 0;
    };
    let queries: { set: GPUQuerySet; names: string[] } | undefined;
    for (const command of commands) {
      if (command.kind === "write") {
        flush();
        device.queue.writeBuffer(command.to.buffer, command.offset, command.data);
        continue;
      }
      if (command.kind === "dispatch") {
        const { entry, words, groups, indirect } = command;
        if (entry.pipeline === undefined) continue;
        const bytes = words ? words.length * 4 : 0;
        if (words && arenaUsed + bytes > ARENA_BYTES) flush();
        encoder ??= device.createCommandEncoder();
        if (this.#times) {
          endPass();
          if (queries?.names.length === QUERY_COUNT / 2) {
            this.#resolve(encoder, queries);
            queries = undefined;
          }
          queries ??= { set: device.createQuerySet({ type: "timestamp", count: QUERY_COUNT }), names: [] };
          const index = queries.names.push(entry.name) - 1;
          pass = encoder.beginComputePass({
            timestampWrites: {
              querySet: queries.set,
              beginningOfPassWriteIndex: index * 2,
              endOfPassWriteIndex: index * 2 + 1,
            },
          });
        }
        pass ??= encoder.beginComputePass();
        pass.setPipeline(entry.pipeline);
        const group = this.#bindGroup(command);
        if (words) {
          this.#arenaWords.set(words, arenaUsed / 4);
          pass.setBindGroup(0, group, [arenaUsed]);
          arenaUsed += Math.ceil(bytes / this.#slot) * this.#slot;
        } else {
          pass.setBindGroup(0, group);
        }
        if (indirect) pass.dispatchWorkgroupsIndirect(indirect.storage.buffer, indirect.offset);
        else pass.dispatchWorkgroups(groups[0], groups[1], groups[2]);
        this.#dispatches++;
        names.add(entry.name);
        continue;
      }
      encoder ??= device.createCommandEncoder();
      endPass();
      if (command.kind === "copy") {
        const to = isStorage(command.to) ? command.to.buffer : command.to;
        encoder.copyBufferToBuffer(
          command.from.buffer,
          command.fromOffset,
          to,
          command.toOffset,
          command.bytes,
        );
      } else {
        encoder.clearBuffer(command.to.buffer, 0, command.bytes);
      }
    }
    if (queries && encoder) {
      endPass();
      this.#resolve(encoder, queries);
    }
    flush();
    this.#submitted += commands.length;
    const memory = device.popErrorScope();
    const validation = device.popErrorScope();
    const check = Promise.all([memory, validation]).then(
      (errors) => {
        const error = errors.find((e) => e !== null);
        if (error) {
          this.fail(
            new GpuValidationError(
              "gpu",
              `a batch of commands was refused (kernels: ${[...names].join(", ")}): ${error.message}`,
            ),
          );
        }
      },
      () => undefined,
    );
    this.#checks.add(check);
    void check.then(() => this.#checks.delete(check));
  }

  #resolve(encoder: GPUCommandEncoder, queries: { set: GPUQuerySet; names: string[] }): void {
    const count = queries.names.length * 2;
    const resolved = this.#device.createBuffer({
      size: count * 8,
      usage: BufferUsage.QUERY_RESOLVE | BufferUsage.COPY_SRC,
    });
    const staging = this.#device.createBuffer({
      size: count * 8,
      usage: BufferUsage.MAP_READ | BufferUsage.COPY_DST,
    });
    encoder.resolveQuerySet(queries.set, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, staging, 0, count * 8);
    const times = this.#times ?? [];
    const read = Promise.resolve()
      .then(() => staging.mapAsync(MAP_MODE_READ))
      .then(
        () => {
          const stamps = new BigUint64Array(staging.getMappedRange());
          queries.names.forEach((kernel, i) => {
            const nanoseconds = (stamps[2 * i + 1] ?? 0n) - (stamps[2 * i] ?? 0n);
            times.push({ kernel, milliseconds: Number(nanoseconds) / 1e6 });
          });
        },
        () => undefined,
      )
      .then(() => {
        staging.destroy();
        resolved.destroy();
        queries.set.destroy();
      });
    this.#checks.add(read);
    void read.then(() => this.#checks.delete(read));
  }

  /** Collect the time of every dispatch from now on into the returned list, until `stopTiming`. */
  startTiming(): DispatchTime[] {
    this.#times = [];
    return this.#times;
  }

  stopTiming(): void {
    this.#times = undefined;
  }

  /** Resolves when everything queued so far is submitted (or the device is lost). */
  async submitAll(): Promise<void> {
    const serial = this.#queued;
    this.submit();
    if (this.#submitted >= serial) return;
    await new Promise<void>((resolve) => {
      this.#waiters.push({ serial, resolve });
    });
  }

  /** Throw what went wrong since the last check, once. */
  async throwFailure(): Promise<void> {
    await Promise.all(this.#checks);
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure) throw failure;
  }

  /** Wake whoever waits after the device was lost. */
  abandon(): void {
    this.#abandon();
  }
}
