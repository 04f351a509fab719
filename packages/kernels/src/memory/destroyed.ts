import { isStorage, type Command } from "../queue/command.js";
import { BufferUsage } from "../base/constants.js";
import type { Storage } from "./storage.js";

/** The buffers of a batch, each with the uses that name it in an error. */
function usesOf(commands: readonly Command[]): Map<Storage, Set<string>> {
  const uses = new Map<Storage, Set<string>>();
  const note = (storage: Storage, use: string): void => {
    const known = uses.get(storage);
    if (known) known.add(use);
    else uses.set(storage, new Set([use]));
  };
  for (const command of commands) {
    switch (command.kind) {
      case "dispatch":
        command.ranges.forEach(({ storage }, i) => {
          note(storage, `${command.entry.bindings[i]?.name ?? "a binding"} of ${command.entry.name}`);
        });
        if (command.indirect) note(command.indirect.storage, `the workgroup counts of ${command.entry.name}`);
        break;
      case "copy":
        note(command.from, isStorage(command.to) ? "the source of a copy" : "a tensor that is read");
        if (isStorage(command.to)) note(command.to, "the target of a copy");
        break;
      case "write":
      case "clear":
        note(command.to, `the target of a ${command.kind}`);
    }
  }
  return uses;
}

/**
 * Which buffers of a refused batch were destroyed, by their uses. WebGPU does not tell, so each is tried alone: a
 * submit that copies a word out of it.
 */
export async function destroyedBuffers(device: GPUDevice, commands: readonly Command[]): Promise<string[]> {
  const scratch = device.createBuffer({ label: "probe", size: 16, usage: BufferUsage.COPY_DST });
  const found = await Promise.all(
    [...usesOf(commands)].map(async ([storage, uses]) => {
      device.pushErrorScope("validation");
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(storage.buffer, 0, scratch, 0, 4);
      device.queue.submit([encoder.finish()]);
      const error = await device.popErrorScope();
      return error ? [`${[...uses].slice(0, 3).join(", ")} (a buffer of ${storage.bytes} bytes)`] : [];
    }),
  );
  scratch.destroy();
  return found.flat();
}
