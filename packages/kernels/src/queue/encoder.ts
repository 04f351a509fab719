import { BindGroupCache } from "./bind_groups.js";
import { isStorage, type Command, type DispatchCommand } from "./command.js";
import { BufferUsage } from "../base/constants.js";
import type { DispatchTimer } from "./timing.js";

const ARENA_BYTES = 65536;

/**
 * Makes command buffers of commands and submits them. Uniform parameters of a batch lie in one arena that is written
 * once per submit.
 */
export class BatchEncoder {
  readonly #device: GPUDevice;
  readonly #arena: GPUBuffer;
  readonly #arenaBytes: Uint8Array<ArrayBuffer> = new Uint8Array(ARENA_BYTES);
  readonly #arenaWords: Uint32Array<ArrayBuffer> = new Uint32Array(this.#arenaBytes.buffer);
  readonly #slot: number;
  readonly bindGroups: BindGroupCache;
  /** Takes the time of every dispatch while it is set. */
  timer: DispatchTimer | undefined;
  dispatches = 0;
  submits = 0;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #arenaUsed = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
    this.#slot = Math.max(16, device.limits.minUniformBufferOffsetAlignment);
    this.#arena = device.createBuffer({
      label: "parameters",
      size: ARENA_BYTES,
      usage: BufferUsage.UNIFORM | BufferUsage.COPY_DST,
    });
    this.bindGroups = new BindGroupCache(device, this.#arena);
  }

  /** Submit commands in their order; a dispatch whose pipeline was refused is left out. */
  submit(commands: readonly Command[]): void {
    for (const command of commands) {
      switch (command.kind) {
        case "write":
          this.#flush();
          this.#device.queue.writeBuffer(command.to.buffer, command.offset, command.data);
          break;
        case "dispatch":
          this.#dispatch(command);
          break;
        case "copy": {
          const { from, fromOffset, to, toOffset, bytes } = command;
          this.#outsidePass().copyBufferToBuffer(
            from.buffer,
            fromOffset,
            isStorage(to) ? to.buffer : to,
            toOffset,
            bytes,
          );
          break;
        }
        case "clear":
          this.#outsidePass().clearBuffer(command.to.buffer, 0, command.bytes);
      }
    }
    this.#flush();
  }

  #dispatch(command: DispatchCommand): void {
    const { entry, words, groups, indirect } = command;
    if (entry.pipeline === undefined) return;
    const bytes = words ? words.length * 4 : 0;
    if (this.#arenaUsed + bytes > ARENA_BYTES) this.#flush();
    const pass = this.#beginPass(entry.name);
    pass.setPipeline(entry.pipeline);
    const group = this.bindGroups.get(command);
    if (words) {
      this.#arenaWords.set(words, this.#arenaUsed / 4);
      pass.setBindGroup(0, group, [this.#arenaUsed]);
      this.#arenaUsed += Math.ceil(bytes / this.#slot) * this.#slot;
    } else {
      pass.setBindGroup(0, group);
    }
    if (indirect) pass.dispatchWorkgroupsIndirect(indirect.storage.buffer, indirect.offset);
    else pass.dispatchWorkgroups(groups[0], groups[1], groups[2]);
    this.dispatches++;
  }

  /** Dispatches share a pass, except where each is timed. */
  #beginPass(kernel: string): GPUComputePassEncoder {
    if (!this.timer) {
      this.#encoder ??= this.#device.createCommandEncoder();
      return (this.#pass ??= this.#encoder.beginComputePass());
    }
    const encoder = this.#outsidePass();
    return (this.#pass = encoder.beginComputePass({ timestampWrites: this.timer.stamps(encoder, kernel) }));
  }

  #outsidePass(): GPUCommandEncoder {
    this.#pass?.end();
    this.#pass = undefined;
    return (this.#encoder ??= this.#device.createCommandEncoder());
  }

  #flush(): void {
    if (!this.#encoder) return;
    const encoder = this.#outsidePass();
    this.timer?.resolve(encoder);
    const { queue } = this.#device;
    if (this.#arenaUsed > 0) queue.writeBuffer(this.#arena, 0, this.#arenaBytes, 0, this.#arenaUsed);
    queue.submit([encoder.finish()]);
    this.submits++;
    this.#encoder = undefined;
    this.#arenaUsed = 0;
  }
}
