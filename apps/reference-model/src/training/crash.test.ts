import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type * as FileSystem from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { useGpu } from "@x/testing";
import { tinyParts } from "../test-support.js";
import { TRAINING_DEFAULTS } from "./options.js";
import { train, type TrainingRun } from "./train.js";

/**
 * The file system under a run: it counts operations that change something, and fails at one of them. A kill fails every
 * later operation too, as no code of a process that was killed runs on; a full disk fails writing alone.
 */
const disk = vi.hoisted(() => ({
  count: 0,
  failAt: Infinity,
  kind: "kill",
  log: [] as string[],
  /** Called before each operation that changes something. @throws when it fails */
  before(operation: string): "torn" | undefined {
    this.log[this.count] = operation;
    const at = this.count++;
    if (at < this.failAt) return undefined;
    if (operation === "writeFile" && at === this.failAt) return "torn";
    if (this.kind === "kill") throw new Error("killed");
    if (operation === "writeFile") throw Object.assign(new Error("ENOSPC"), { code: "ENOSPC" });
    return undefined;
  },
}));

vi.mock("node:fs/promises", async (original) => {
  const real = await original<typeof FileSystem>();
  const changing =
    <A extends unknown[], R>(name: string, f: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      disk.before(name);
      return f(...args);
    };
  const open: typeof real.open = async (path, flags, mode) => {
    const handle = await (flags === "w" ? changing("open", real.open) : real.open)(path, flags, mode);
    const writeFile = handle.writeFile.bind(handle);
    const sync = handle.sync.bind(handle);
    handle.writeFile = async (data) => {
      if (disk.before("writeFile") !== "torn") {
        await writeFile(data);
        return;
      }
      // Half of it reaches the disk.
      const bytes = Buffer.from(data as string | Uint8Array<ArrayBuffer>);
      await writeFile(bytes.subarray(0, bytes.length >> 1));
      throw Object.assign(new Error("the write is torn"), { code: "ENOSPC" });
    };
    handle.sync = changing("sync", sync);
    return handle;
  };
  return {
    ...real,
    open,
    rename: changing("rename", real.rename),
    rm: changing("rm", real.rm),
    mkdir: changing("mkdir", real.mkdir as (path: string, options: object) => Promise<string | undefined>),
  };
});

const options = {
  ...TRAINING_DEFAULTS,
  steps: 3,
  batch: 1,
  seqLen: 8,
  warmup: 0,
  evaluateEvery: 2,
  saveEvery: 1,
  validation: 0.1,
};
const model = tinyParts({ dim: 8, maxLength: 16, numLayers: 1, ffn: { type: "glu", hiddenDim: 8 } });
delete model["vocab_size"];
model["mixer"] = { type: "attention", numHeads: 1 };

describe("a run that is stopped at any operation on a file", () => {
  const device = useGpu();
  let folder = "";
  let whole = new Map<string, string>();
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "x-crash-"));
    writeFileSync(
      join(folder, "text.txt"),
      "the cat sat on the mat\n\nthe dog sat on the log\n\nso it was\n",
    );
  });
  afterAll(() => {
    rmSync(folder, { recursive: true, force: true });
  });
  beforeEach(() => {
    Object.assign(disk, { count: 0, failAt: Infinity, kind: "kill", log: [] });
  });

  const run = (out: string, steps = options.steps): TrainingRun => ({
    data: join(folder, "text.txt"),
    out: join(folder, out, "run"),
    model,
    vocabSize: 260,
    options: { ...options, steps },
  });

  /** Every file of a folder with its contents, as one value. */
  function contents(out: string): Map<string, string> {
    const names = readdirSync(join(folder, out), { recursive: true, withFileTypes: true });
    return new Map(
      names
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name))
        .map((path) => [path.slice(join(folder, out).length), readFileSync(path, "base64")] as const)
        .sort(([a], [b]) => (a < b ? -1 : 1)),
    );
  }

  /** Which operations are tried: the first and last, all that move or remove, and some or all of the others. */
  function points(log: readonly string[]): number[] {
    const all = log.map((_, i) => i);
    if (process.env["KILL_POINTS"] === "all") return all;
    return all.filter((i) => log[i] === "rename" || log[i] === "rm" || i % 7 === 0);
  }

  /** Stop a run at each operation, run it again, and compare what is there with what a whole run writes. */
  async function stopEverywhere(name: string, prepare: (out: string) => Promise<void>): Promise<void> {
    const { gpu } = device;
    await prepare(`${name}-whole`);
    disk.count = 0;
    await train(gpu, run(`${name}-whole`));
    const log = disk.log.slice(0, disk.count);
    expect(log.length).toBeGreaterThan(40);
    whole = contents(`${name}-whole`);
    for (const at of points(log)) {
      const out = `${name}-${at}`;
      Object.assign(disk, { count: 0, failAt: Infinity });
      await prepare(out);
      Object.assign(disk, { count: 0, failAt: at });
      const stopped = await train(gpu, run(out)).then(
        () => "ended",
        () => "stopped",
      );
      disk.failAt = Infinity;
      // A disk that is full fails writing alone, and after the last writing nothing fails.
      if (disk.kind === "kill") expect(stopped, `killed at operation ${at}, ${log[at]}`).toBe("stopped");
      await train(gpu, run(out));
      const now = contents(out);
      expect([...now.keys()], `killed at operation ${at}, ${log[at]}`).toEqual([...whole.keys()]);
      for (const [file, bytes] of whole)
        expect(now.get(file) === bytes, `${file} after a kill at operation ${at}, ${log[at]}`).toBe(true);
      rmSync(join(folder, out), { recursive: true });
    }
  }

  it(
    "ends with the same files and the same bytes when it is run again",
    async () => {
      await stopEverywhere("killed", () => Promise.resolve());
    },
    600_000 /* some hundred runs */,
  );

  it(
    "lengthened, it does so too, and a higher number of steps is all that differs",
    async () => {
      const { gpu } = device;
      await stopEverywhere("longer", async (out) => {
        await train(gpu, run(out, 1));
      });
      const done = JSON.parse(readFileSync(join(folder, "longer-whole/run/training.json"), "utf8")) as {
        step: number;
        losses: unknown[];
      };
      expect([done.step, done.losses.length]).toEqual([3, 3]);
      await expect(train(gpu, run("longer-whole", 2))).rejects.toThrow(
        /--steps is 2; the run in .* is at step 3 already/,
      );
    },
    600_000 /* some hundred runs */,
  );

  it(
    "a disk that fills up at any moment is named, and what was saved goes on when there is room again",
    async () => {
      const { gpu } = device;
      disk.kind = "full";
      await stopEverywhere("full", () => Promise.resolve());
      Object.assign(disk, { count: 0, failAt: 40 });
      await expect(train(gpu, run("named"))).rejects.toThrow(
        /cannot be written: no space is left on the device/,
      );
    },
    600_000 /* some hundred runs */,
  );
});
