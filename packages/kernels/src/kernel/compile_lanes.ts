import { BufferUsage } from "../base/constants.js";

/** A compute shader as a device takes it, and the main device's pipeline of it. */
export interface ShaderJob {
  readonly label: string;
  readonly code: string;
  readonly entries: readonly GPUBindGroupLayoutEntry[];
  readonly layout: GPUBindGroupLayout;
  readonly pipeline: Promise<GPUComputePipeline>;
}

/** A first dispatch that takes more milliseconds than this is assumed to have compiled. */
const PATIENCE = 25;
const RANGE = 256;
const UNIFORM_BYTES = 4096;

interface Waiting {
  readonly job: ShaderJob;
  readonly done: () => void;
}

const patience = (): Promise<"slow"> => new Promise((resolve) => setTimeout(resolve, PATIENCE, "slow"));

/** A device with what is bound when a shader is touched: zeros. */
class Lane {
  readonly device: GPUDevice;
  readonly #read: GPUBuffer;
  readonly #written: GPUBuffer;
  readonly #uniform: GPUBuffer;

  constructor(device: GPUDevice) {
    this.device = device;
    const { STORAGE, INDIRECT, UNIFORM } = BufferUsage;
    const buffer = (size: number, usage: number): GPUBuffer =>
      device.createBuffer({ label: "compile", size, usage });
    this.#read = buffer(RANGE, STORAGE | INDIRECT);
    this.#written = buffer(RANGE * 64, STORAGE);
    this.#uniform = buffer(UNIFORM_BYTES, UNIFORM);
  }

  /** Dispatch no workgroup at all: the driver compiles, and nothing runs. */
  async touch({ label, code, entries, ...own }: ShaderJob, main: boolean): Promise<void> {
    const { device } = this;
    const layout = main ? own.layout : device.createBindGroupLayout({ label, entries: [...entries] });
    const pipeline = main
      ? await own.pipeline
      : await device.createComputePipelineAsync({
          label,
          layout: device.createPipelineLayout({ label, bindGroupLayouts: [layout] }),
          compute: { module: device.createShaderModule({ label, code }), entryPoint: "main" },
        });
    const resource = (buffer: GPUBindGroupLayoutEntry["buffer"], index: number): GPUBufferBinding => {
      if (buffer?.type === "uniform")
        return { buffer: this.#uniform, size: buffer.minBindingSize ?? UNIFORM_BYTES };
      if (buffer?.type === "read-only-storage") return { buffer: this.#read };
      return { buffer: this.#written, offset: RANGE * index, size: RANGE };
    };
    const group = device.createBindGroup({
      label,
      layout,
      entries: entries.map(({ binding, buffer }, index) => ({ binding, resource: resource(buffer, index) })),
    });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group, entries.some(({ buffer }) => buffer?.hasDynamicOffset) ? [0] : []);
    pass.dispatchWorkgroupsIndirect(this.#read, 0);
    pass.end();
    device.queue.submit([encoder.finish()]);
    await device.queue.onSubmittedWorkDone();
  }

  release(): void {
    for (const buffer of [this.#read, this.#written, this.#uniform]) buffer.destroy();
  }
}

/**
 * Compile shaders side by side where the driver would compile them one after another.
 *
 * Mesa's software Vulkan makes machine code when a pipeline is first dispatched, in its queue's one thread: seconds
 * for the first training step. Its results go to a cache on disk that all devices of the machine share. So when the
 * first shader of several turns out to be slow, further devices compile the others, and each is closed when no work is
 * left. Shaders that come from the cache cost one empty dispatch.
 */
export class CompileLanes {
  readonly #device: GPUDevice;
  readonly #threads: number;
  readonly #open: () => Promise<GPUDevice>;
  #waiting: Waiting[] = [];
  #main: Lane | undefined;
  #busy = false;

  /** `threads`: devices that compile at once, the main one included. */
  constructor(device: GPUDevice, threads: number, open: () => Promise<GPUDevice>) {
    this.#device = device;
    this.#threads = threads;
    this.#open = open;
  }

  /** Resolves when the driver has compiled the job's pipeline, or would not gain by doing so now. */
  async compile(job: ShaderJob): Promise<void> {
    await new Promise<void>((done) => {
      this.#waiting.push({ job, done });
      if (this.#busy) return;
      this.#busy = true;
      // When the caller first waits, so that a whole step's shaders are known.
      queueMicrotask(() => void this.#run());
    });
  }

  async #run(): Promise<void> {
    try {
      while (this.#waiting.length > 1) await this.#batch();
    } finally {
      this.#busy = false;
      this.#letGo();
    }
  }

  /** Try the longest where it will run. If that is quick, so are all: the cache is warm. */
  async #batch(): Promise<void> {
    const main = (this.#main ??= new Lane(this.#device));
    const first = this.#take()!;
    const touched = this.#touch(main, first);
    if ((await Promise.race([touched, patience()])) !== "slow") {
      this.#letGo();
      return;
    }
    const others = Math.min(this.#threads - 1, this.#waiting.length);
    await Promise.all([
      touched.then(() => this.#drain(main)),
      ...Array.from({ length: others }, () => this.#help()),
    ]);
  }

  #letGo(): void {
    for (const { done } of this.#waiting.splice(0)) done();
  }

  /** The longest text first: the parts end together. */
  #take(): Waiting | undefined {
    const longest = this.#waiting.reduce(
      (a, { job }, i, all) => (job.code.length > all[a]!.job.code.length ? i : a),
      0,
    );
    return this.#waiting.splice(longest, 1)[0];
  }

  /** Whatever goes wrong here shows again, with its message, when the kernel runs. */
  async #touch(lane: Lane, { job, done }: Waiting): Promise<void> {
    await lane.touch(job, lane === this.#main).catch(() => undefined);
    done();
  }

  async #drain(lane: Lane): Promise<void> {
    for (let next = this.#take(); next; next = this.#take()) await this.#touch(lane, next);
  }

  async #help(): Promise<void> {
    const device = await this.#open().catch(() => undefined);
    if (!device) return;
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
    });
    const lane = new Lane(device);
    await this.#drain(lane);
    lane.release();
    device.destroy();
  }
}
