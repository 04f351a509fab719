import type { PipelineEntry } from "../kernel/pipeline.js";
import type { Storage } from "../memory/storage.js";

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

interface CopyCommand {
  readonly kind: "copy";
  readonly from: Storage;
  readonly fromOffset: number;
  readonly to: Storage | GPUBuffer;
  readonly toOffset: number;
  readonly bytes: number;
}

interface WriteCommand {
  readonly kind: "write";
  readonly to: Storage;
  readonly offset: number;
  readonly data: Uint8Array<ArrayBuffer>;
}

interface ClearCommand {
  readonly kind: "clear";
  readonly to: Storage;
  readonly bytes: number;
}

/** One entry of the command list; executed strictly in the order in which it was queued. */
export type Command = DispatchCommand | CopyCommand | WriteCommand | ClearCommand;

export function isStorage(target: Storage | GPUBuffer): target is Storage {
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
