import { storagesOf, type Command } from "./command.js";
import { destroyedBuffers } from "../memory/destroyed.js";
import { BatchEncoder } from "./encoder.js";
import { GpuValidationError, type DeviceLostError, type KernelsError } from "../base/errors.js";
import type { PipelineEntry } from "../kernel/pipeline.js";
import type { Storage } from "../memory/storage.js";
import { DispatchTimer } from "./timing.js";

const AUTO_SUBMIT = 64;

/**
 * The ordered list of commands of a device. Nothing is encoded before it can run: a dispatch whose pipeline is
 * still being compiled holds back what follows it, so the whole first step is queued, and all its pipelines are
 * compiled side by side, before the first wait.
 */
export class CommandQueue {
  readonly #device: GPUDevice;
  readonly #lost: () => DeviceLostError | undefined;
  readonly #encoder: BatchEncoder;
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

  constructor(device: GPUDevice, lost: () => DeviceLostError | undefined) {
    this.#device = device;
    this.#lost = lost;
    this.#encoder = new BatchEncoder(device);
  }

  /** Dispatches and submits so far. */
  get counts(): { dispatches: number; submits: number; bindGroups: number } {
    const { dispatches, submits, bindGroups } = this.#encoder;
    return { dispatches, submits, bindGroups: bindGroups.size };
  }

  push(command: Command): void {
    const serial = ++this.#queued;
    for (const storage of storagesOf(command)) storage.lastUse = serial;
    if (command.kind === "write" && this.#commands.length === 0) {
      // Nothing is waiting: the write keeps its place in the device's own queue.
      this.#device.queue.writeBuffer(command.to.buffer, command.offset, command.data);
      this.#submitted = serial;
      return;
    }
    this.#commands.push(command);
    if (this.#commands.length >= AUTO_SUBMIT && !this.#encoder.timer) this.submit();
  }

  /** Write to a buffer in queue order; at once if no queued command touches it. */
  write(to: Storage, offset: number, data: Uint8Array<ArrayBuffer>): void {
    if (to.lastUse <= this.#submitted) {
      this.#device.queue.writeBuffer(to.buffer, offset, data);
      return;
    }
    // The caller may change its array before the commands are submitted.
    this.push({ kind: "write", to, offset, data: data.slice() });
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
      this.abandon();
      return;
    }
    while (this.#commands.length > 0) {
      const count = this.#runnable();
      if (count > 0) this.#run(this.#commands.splice(0, count));
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
  abandon(): void {
    this.#commands.length = 0;
    this.#submitted = this.#queued;
    this.#encoder.bindGroups.clear();
    this.#settle();
  }

  /** Submit a batch and have the device's complaints about it noted. */
  #run(commands: readonly Command[]): void {
    const device = this.#device;
    device.pushErrorScope("validation");
    device.pushErrorScope("out-of-memory");
    this.#encoder.submit(commands);
    this.#submitted += commands.length;
    const memory = device.popErrorScope();
    const validation = device.popErrorScope();
    const check = Promise.all([memory, validation])
      .then((errors) => {
        const error = errors.find((e) => e !== null);
        return error && this.#refused(commands, error.message);
      })
      .catch(() => undefined);
    this.#checks.add(check);
    void check.then(() => this.#checks.delete(check));
  }

  /** Note why the device dropped a whole batch. */
  async #refused(commands: readonly Command[], reason: string): Promise<void> {
    const destroyed = await destroyedBuffers(this.#device, commands);
    const kernels = new Set(
      commands.flatMap((c) => (c.kind === "dispatch" && c.entry.pipeline ? [c.entry.name] : [])),
    );
    const what = `a batch of ${commands.length} commands was dropped (kernels: ${[...kernels].join(", ") || "none"})`;
    const why =
      destroyed.length > 0
        ? `other code destroyed ${destroyed.join("; ")}. Free a tensor by dispose(), never by destroying its buffer`
        : reason;
    this.fail(new GpuValidationError("gpu", `${what}: ${why}`));
  }

  /** Time every dispatch from now on, until `stopTiming`. */
  startTiming(): DispatchTimer {
    return (this.#encoder.timer = new DispatchTimer(this.#device));
  }

  stopTiming(): void {
    this.#encoder.timer = undefined;
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
}
