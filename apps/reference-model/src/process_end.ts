import { CommanderError } from "commander";
import { KernelsError } from "@x/kernels";
import { TokenizerError } from "@x/tokenizer";

/** How the process ends, for every command: by its last line, by an error, by a signal, or because nobody reads on. */

/** Exit codes of signals are 128 and the number of the signal, as a shell has them. */
const SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
/** A terminal and npm both send the signal of one Ctrl-C: what follows within this time, in milliseconds, is the same one. */
const ONE_SIGNAL = 500;

const cleanups: (() => void)[] = [];
let stopRequested: (() => void) | undefined;
let signalAt: number | undefined;
let exitCode = 0;
let ending = false;
/** The end came from outside, while the command was at work. */
let cutOff = false;

/**
 * Do something when the process ends, however it ends: show the cursor again, free the GPU, remove a temporary folder.
 * Returns a function that does it now, and not again.
 */
export function atEnd(cleanup: () => void): () => void {
  let done = false;
  const once = (): void => {
    if (done) return;
    done = true;
    const at = cleanups.indexOf(once);
    if (at >= 0) cleanups.splice(at, 1);
    cleanup();
  };
  cleanups.push(once);
  return once;
}

/**
 * From now on the first signal only calls `stop`, and the process ends with the signal's exit code when the command is
 * done; a second signal ends the process at once. Returns a function that takes `stop` off again.
 */
export function onStop(stop: () => void): () => void {
  stopRequested = stop;
  return () => {
    stopRequested = undefined;
  };
}

function receive(number: number): void {
  const now = performance.now();
  if (signalAt !== undefined && now - signalAt < ONE_SIGNAL) return;
  const first = signalAt === undefined;
  signalAt = now;
  exitCode = 128 + number;
  if (first && stopRequested) stopRequested();
  else void end(exitCode, undefined, "cut off");
}

const isSystemError = (error: unknown): error is NodeJS.ErrnoException =>
  error instanceof Error && "syscall" in error && "code" in error;

/** What a user can act on is one line; anything else is a fault of this program and shows where it is. */
function report(error: unknown): void {
  // The parser of the command line has written its message.
  if (error instanceof CommanderError) return;
  const expected = KernelsError.isInstance(error) || TokenizerError.isInstance(error) || isSystemError(error);
  const text = error instanceof Error ? (expected ? error.message : error.stack) : String(error);
  process.stderr.write(expected ? `error: ${text}\n` : `${text}\n`);
}

/** What was written reaches the reader, or the reader has a second. */
function flush(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, 1000).unref();
    if (stream.writable)
      stream.write("", () => {
        resolve();
      });
    else resolve();
  });
}

async function end(code: number, error?: unknown, work: "done" | "cut off" = "done"): Promise<void> {
  if (ending) {
    // A last line that finds the disk full is a failure too. Work that was cut off fails because its device is gone.
    if (cutOff) return;
    if (exitCode === 0) exitCode = code;
    if (error !== undefined) report(error);
    return;
  }
  exitCode = code;
  ending = true;
  cutOff = work === "cut off";
  while (cleanups.length > 0) {
    try {
      cleanups.at(-1)!();
    } catch (cause) {
      report(cause);
    }
  }
  if (error !== undefined) report(error);
  await Promise.all([flush(process.stdout), flush(process.stderr)]);
  // A stream says in a later turn that it could not be written.
  await new Promise((resolve) => setImmediate(resolve));
  process.exit(exitCode);
}

/** Run the program, and end the process whatever comes. */
export async function runProcess(main: () => Promise<unknown>): Promise<void> {
  for (const [signal, number] of Object.entries(SIGNALS))
    process.on(signal, () => {
      receive(number);
    });
  process.on("uncaughtException", (error) => void end(1, error));
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    // `generate | head`: the reader has what it wants, and that is a success. Another code would make npm report a failure.
    if (error.code === "EPIPE") void end(0, undefined, "cut off");
    else void end(1, Object.assign(error, { message: `standard output: ${error.message}` }));
  });
  // Nothing can be said where nobody listens; the work goes on.
  process.stderr.on("error", () => undefined);
  try {
    await main();
    await end(exitCode);
  } catch (error) {
    await end(error instanceof CommanderError ? error.exitCode : 1, error);
  }
}
