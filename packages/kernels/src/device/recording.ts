/// <reference lib="esnext.disposable" preserve="true" />
import { storagesOf, type Command } from "../queue/command.js";
import { ConfigError } from "../base/errors.js";
import { RecordingPool, release, retain, type BufferPool } from "../memory/memory.js";
import type { Owned } from "../memory/scope.js";
import type { Storage } from "../memory/storage.js";

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

/** The commands of a recorded function, and the buffers that they use. */
export class Capture {
  readonly commands: Command[] = [];
  readonly pool: RecordingPool;
  #held: ReadonlySet<Storage> = new Set<Storage>();
  #open = true;

  constructor(pool: BufferPool) {
    this.pool = new RecordingPool(pool);
  }

  /** Nothing is added any more. `replay` queues the commands; `tensors` are those in the outputs. */
  finish<T>(
    outputs: T,
    tensors: Iterable<Owned>,
    replay: (commands: readonly Command[]) => void,
  ): Recording<T> {
    const used = this.commands.flatMap((command) => [...storagesOf(command)]);
    this.#held = new Set(used.filter(({ home }) => home !== this.pool));
    for (const storage of this.#held) retain(storage);
    const dispose = (): void => {
      if (!this.#open) return;
      for (const tensor of tensors) tensor.dispose();
      this.close();
    };
    return {
      outputs,
      replay: () => {
        if (!this.#open) throw new ConfigError("record", "replay after dispose(); record the step again");
        replay(this.commands);
      },
      dispose,
      [Symbol.dispose]: dispose,
    };
  }

  /** Give the buffers back. */
  close(): void {
    this.#open = false;
    this.pool.close();
    for (const storage of this.#held) release(storage);
  }
}
