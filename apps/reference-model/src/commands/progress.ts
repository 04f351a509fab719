import { basename } from "node:path";
import cliProgress from "cli-progress";
import { atEnd } from "../process_end.js";

/** A bar on standard error; where that is not a terminal, a line from time to time. */
export class Progress {
  readonly #bar: cliProgress.SingleBar;
  readonly #stop: () => void;
  #started = false;

  /** The format is that of cli-progress, with `{name}` for a value that `show` is given. */
  constructor(format: string) {
    this.#bar = new cliProgress.SingleBar({
      format,
      hideCursor: true,
      noTTYOutput: true,
      notTTYSchedule: 15_000,
      stream: process.stderr,
    });
    // A bar that is not stopped goes on drawing, keeps the process alive and hides the cursor.
    this.#stop = atEnd(() => {
      if (this.#started) this.#bar.stop();
    });
  }

  show(value: number, total: number, values: Readonly<Record<string, string>> = {}): void {
    if (this.#started) this.#bar.update(value, values);
    else this.#bar.start(total, value, values);
    this.#started = true;
  }

  stop(): void {
    this.#stop();
  }
}

/** Milliseconds after which a model that is still being read is worth a bar. */
const PATIENCE = 500;

/** Options of the loader that show the tensors of a large model as they are read, where standard error is a terminal. */
export function loadingBar(path: string): { readonly onTensor?: (done: number, total: number) => void } {
  if (!process.stderr.isTTY) return {};
  const started = performance.now();
  let bar: Progress | undefined;
  return {
    onTensor: (done, total) => {
      if (!bar && performance.now() - started < PATIENCE) return;
      bar ??= new Progress(`reading ${basename(path)} {bar} {value}/{total} tensors`);
      bar.show(done, total);
      if (done === total) bar.stop();
    },
  };
}
