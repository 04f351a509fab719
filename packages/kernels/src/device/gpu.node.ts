import { createHash } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { availableParallelism, homedir } from "node:os";
import { join } from "node:path";

let dawn: Promise<GPU> | undefined;

async function loadDawn(): Promise<GPU> {
  const name = "webgpu";
  const loaded = (await import(name)) as { create(flags: string[]): GPU; globals: Record<string, unknown> };
  for (const [key, value] of Object.entries(loaded.globals)) {
    if (!(key in globalThis))
      Object.defineProperty(globalThis, key, { value, configurable: true, writable: true });
  }
  return loaded.create([]);
}

/** `navigator.gpu` where the runtime has it (Deno), else Dawn through the optional peer `webgpu`. */
export async function provideGpu(): Promise<GPU | undefined> {
  const host = globalThis as { navigator?: { gpu?: GPU } };
  if (host.navigator?.gpu) return host.navigator.gpu;
  dawn ??= loadDawn();
  try {
    return await dawn;
  } catch (cause) {
    dawn = undefined;
    throw new Error(
      "WebGPU for Node is the optional peer dependency `webgpu` (Dawn), which could not be loaded. " +
        "Install it beside @x/kernels: npm install webgpu@0.6.2",
      { cause },
    );
  }
}

/** What to install on this platform when Dawn finds no adapter. */
export function adapterAdvice(): string {
  switch (process.platform) {
    case "linux":
      return (
        "no Vulkan driver that Dawn accepts was found. Install your GPU's Vulkan driver, or Mesa 25 or newer " +
        "for software rendering: on Debian 13 and Ubuntu 24.04 `apt-get install libvulkan1 mesa-vulkan-drivers`, " +
        "on Debian 12 the same from the backports suite: `apt-get install -t bookworm-backports libvulkan1 " +
        "mesa-vulkan-drivers` (its own Mesa 22.3 is refused)"
      );
    case "darwin":
      return "no Metal device was found; WebGPU needs macOS 11 or newer on hardware with Metal";
    case "win32":
      return "no Direct3D 12 device was found; update the graphics driver";
    default:
      return `there is no WebGPU adapter for ${process.platform}`;
  }
}

/** Devices that compile shaders at once on a software adapter. */
export const compileThreads = (): number => Math.min(8, availableParallelism());

const sleeper = new Int32Array(new SharedArrayBuffer(4));
let waits = 0;
let begun = 0;
let turning = false;

/** Part of the time waited so far that one sleep may add, and the longest sleep in milliseconds. */
const SLEEP_SHARE = 0.04;
const SLEEP_LIMIT = 1;

function turn(): void {
  turning = waits > 0;
  if (!turning) return;
  const sleep = Math.min(SLEEP_LIMIT, (performance.now() - begun) * SLEEP_SHARE);
  if (sleep > 0.02) Atomics.wait(sleeper, 0, 0, sleep);
  setImmediate(turn);
}

/**
 * Await work on an adapter that is the CPU itself. While something is pending, Dawn's Node binding polls in every
 * turn of the event loop, a core's worth of work that a software adapter lacks; so sleep a little in each turn.
 */
export async function awaitOnCpu<T>(promise: Promise<T>): Promise<T> {
  waits++;
  begun = performance.now();
  if (!turning) {
    turning = true;
    setImmediate(turn);
  }
  try {
    return await promise;
  } finally {
    waits--;
  }
}

/** A file of the user's cache folder. */
function tuningFile(name: string): { folder: string; file: string } {
  const { XDG_CACHE_HOME, LOCALAPPDATA } = process.env;
  const home = { darwin: join(homedir(), "Library", "Caches"), win32: LOCALAPPDATA } as Readonly<
    Record<string, string | undefined>
  >;
  const folder = join(home[process.platform] ?? XDG_CACHE_HOME ?? join(homedir(), ".cache"), "x-kernels");
  return {
    folder,
    file: join(folder, `tuning-${createHash("sha256").update(name).digest("hex").slice(0, 16)}.json`),
  };
}

/** What `tune` kept under a name. */
export const loadTuning = async (name: string): Promise<string> => readFile(tuningFile(name).file, "utf8");

export async function saveTuning(name: string, text: string): Promise<void> {
  const { folder, file } = tuningFile(name);
  await mkdir(folder, { recursive: true });
  await writeFile(`${file}.${process.pid}`, text);
  await rename(`${file}.${process.pid}`, file);
}
