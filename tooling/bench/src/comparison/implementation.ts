import { fork, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Answer, Opened, Request } from "./protocol.js";

/** Something that can be measured: this project or a back end of a peer. */
export interface Implementation {
  readonly name: string;
  /** Runs on the same adapter. */
  readonly webgpu: boolean;
  readonly script: string;
  readonly args: readonly string[];
}

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export const PROJECT: Implementation = {
  name: "this project",
  webgpu: true,
  script: here("./worker.js"),
  args: [],
};

/** Back ends of the peers, installed in `folder`. */
export function peerImplementations(folder: string): Implementation[] {
  const peer = (name: string, library: string, backend: string): Implementation => ({
    name,
    webgpu: backend === "webgpu",
    script: here("../../peers/worker.mjs"),
    args: [library, backend, folder],
  });
  return [
    peer("jax-js webgpu", "jax", "webgpu"),
    peer("tfjs webgpu", "tfjs", "webgpu"),
    peer("jax-js wasm", "jax", "wasm"),
    peer("tfjs wasm", "tfjs", "wasm"),
  ];
}

/** A process that holds one implementation; requests are answered one at a time. */
export class Holder {
  readonly implementation: Implementation;
  readonly #child: ChildProcess;
  readonly #cache: string | undefined;
  #settle: ((answer: Answer) => void) | undefined;
  #opened: Opened | undefined;

  private constructor(implementation: Implementation, child: ChildProcess, cache: string | undefined) {
    this.implementation = implementation;
    this.#child = child;
    this.#cache = cache;
    child.on("message", (answer) => this.#settle?.(answer as Answer));
    child.on("exit", (code) => this.#settle?.({ error: `the process ended (${code ?? "killed"})` }));
  }

  /** Start it and open its device. `cold`: with an empty shader cache of its own. */
  static async open(
    implementation: Implementation,
    { cold = false, options = {} }: { cold?: boolean; options?: Readonly<Record<string, unknown>> } = {},
  ): Promise<Holder> {
    const cache = cold ? await mkdtemp(join(tmpdir(), "bench-shader-cache-")) : undefined;
    const child = fork(implementation.script, [...implementation.args], {
      serialization: "advanced",
      // What the libraries print (Dawn's and tfjs's remarks) is not the table's business.
      stdio: ["ignore", "ignore", "ignore", "ipc"],
      env: {
        ...process.env,
        ...(cache ? { MESA_SHADER_CACHE_DIR: cache, __GL_SHADER_DISK_CACHE_PATH: cache } : {}),
      },
    });
    const holder = new Holder(implementation, child, cache);
    try {
      holder.#opened = await holder.ask<Opened>({ op: "open", options });
    } catch (error) {
      await holder.close();
      throw error;
    }
    return holder;
  }

  get opened(): Opened {
    return this.#opened!;
  }

  /** @throws Error with what the process said, or after `limit` milliseconds. */
  async ask<T>(request: Request, limit = 300_000): Promise<T> {
    const answer = await new Promise<Answer>((resolve) => {
      const timer = setTimeout(() => {
        this.#child.kill("SIGKILL");
        resolve({ error: `no answer within ${limit / 1000} s` });
      }, limit);
      this.#settle = (value) => {
        clearTimeout(timer);
        resolve(value);
      };
      if (!this.#child.connected) this.#settle({ error: "the process has ended" });
      else this.#child.send(request, (error) => error && this.#settle?.({ error: error.message }));
    });
    this.#settle = undefined;
    if ("error" in answer) throw new Error(answer.error);
    return answer.value as T;
  }

  async close(): Promise<void> {
    const gone = new Promise<void>((resolve) => {
      if (this.#child.exitCode !== null || this.#child.signalCode !== null) resolve();
      else
        this.#child.once("exit", () => {
          resolve();
        });
    });
    if (this.#child.connected) this.#child.disconnect();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 3000);
    await gone;
    clearTimeout(timer);
    if (this.#cache) await rm(this.#cache, { recursive: true, force: true });
  }
}
