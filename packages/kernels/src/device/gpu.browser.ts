/** The browser's WebGPU entry point, or undefined where the browser has none. */
export function provideGpu(): Promise<GPU | undefined> {
  const host = globalThis as { navigator?: { gpu?: GPU } };
  return Promise.resolve(host.navigator?.gpu);
}

/** What to do when there is no adapter on this platform. */
export function adapterAdvice(): string {
  return (
    "this browser offers no WebGPU adapter. Use a current Chrome, Edge, Firefox or Safari over https or " +
    "localhost, and check that hardware acceleration is on"
  );
}

/** Await work on an adapter that is the CPU itself; the browser's own process does the waiting. */
export function awaitOnCpu<T>(promise: Promise<T>): Promise<T> {
  return promise;
}

/** Devices that compile shaders at once; the browser's own process compiles side by side by itself. */
export const compileThreads = (): number => 1;

const PREFIX = "@x/kernels tuning: ";

/** What `tune` kept under a name. */
export const loadTuning = (name: string): string | undefined =>
  localStorage.getItem(PREFIX + name) ?? undefined;

export function saveTuning(name: string, text: string): void {
  localStorage.setItem(PREFIX + name, text);
}
