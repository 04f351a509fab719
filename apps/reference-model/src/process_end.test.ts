import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { repository } from "@x/testing";
import { DOCUMENT_BREAK } from "./corpus/data.js";
import { writeStory } from "./corpus/stories.js";

const cli = fileURLToPath(new URL("../dist/cli.js", import.meta.url));
const setup = join(repository, "tooling/setup/setup.mjs");
const LIMIT = 120_000; // A process opens a device, which takes long on a busy machine.

let folder = "";
beforeAll(() => {
  expect(existsSync(cli), "the build is there").toBe(true);
  folder = mkdtempSync(join(tmpdir(), "x-process-"));
  const stories = Array.from({ length: 60 }, (_, i) => writeStory(i)).join(DOCUMENT_BREAK);
  writeFileSync(join(folder, "stories.txt"), stories);
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

const SHAPE =
  "--vocab-size 300 --dim 16 --layers 1 --heads 2 --kv-heads 1 --experts 0 --hidden-dim 16 --window 0";

/** The arguments of a short run of training. */
const training = (out: string, options: string): string[] => [
  "train",
  ...["--data", join(folder, "stories.txt"), "--out", join(folder, out)],
  ...`--batch 2 --seq-len 32 --warmup 0 ${SHAPE} ${options}`.split(" "),
];

interface End {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Milliseconds from the moment that `when` accepted what was written to the end. */
  readonly after: number;
}

/** Run a command to its end; `act` is called once, when `when` accepts what was written to standard error. */
function runToEnd(
  command: readonly string[],
  when: (stderr: string) => boolean = () => false,
  act: (child: ChildProcess) => void = () => undefined,
): Promise<End> {
  const child = spawn(command[0]!, command.slice(1), { stdio: ["ignore", "pipe", "pipe"], cwd: folder });
  let [stdout, stderr] = ["", ""];
  let seen: number | undefined;
  child.stdout.on("data", (data: Buffer) => {
    stdout += data.toString();
  });
  child.stderr.on("data", (data: Buffer) => {
    stderr += data.toString();
    if (seen !== undefined || !when(stderr)) return;
    seen = performance.now();
    act(child);
  });
  return new Promise((resolve) => {
    child.once("close", (code) => {
      resolve({ code, stdout, stderr, after: performance.now() - (seen ?? performance.now()) });
    });
  });
}

const node = process.execPath;

describe("the end of a process", () => {
  it(
    "training that fails says so in one line and ends with code 1 within a second, and what was saved stays",
    async () => {
      const args = training("diverged", "--steps 6 --save-every 1 --learning-rate 1e6 --clip 1e30");
      const end = await runToEnd([node, cli, ...args], (text) => text.includes("error: "));
      expect(end.stderr).toMatch(
        /error: train: (the loss is NaN at step|a gradient of step) \d.*lower --learning-rate/,
      );
      expect(end.stderr).not.toMatch(/\n\s+at /);
      expect(end.code).toBe(1);
      expect(end.after).toBeLessThan(1000);
      const { folder: saved } = JSON.parse(
        readFileSync(join(folder, "diverged/training/latest.json"), "utf8"),
      ) as { folder: string };
      expect(readdirSync(join(folder, "diverged/training", saved))).toContain("optimizer.safetensors");
    },
    LIMIT,
  );

  it(
    "the cursor of a terminal is shown again after an error",
    async ({ skip }) => {
      const probe = spawnSync("script", ["-qec", "true", "/dev/null"]);
      if (probe.status !== 0) skip("there is no `script`, which gives a command a terminal");
      const args = training("cursor", "--steps 6 --learning-rate 1e6 --clip 1e30");
      const command = [node, cli, ...args].map((word) => `'${word}'`).join(" ");
      const { code, stdout } = await runToEnd(["script", "-qec", command, "/dev/null"]);
      expect(code).toBe(1);
      expect(stdout).toContain("\u001b[?25l");
      expect(stdout.lastIndexOf("\u001b[?25h")).toBeGreaterThan(stdout.lastIndexOf("\u001b[?25l"));
    },
    LIMIT,
  );

  const RUNS = [
    ["by itself", [node, cli]],
    ["below the setup", [node, setup, "--", "reference-model"]],
  ] as const;
  for (const [where, start] of RUNS)
    for (const [signal, code] of [
      ["SIGTERM", 143],
      ["SIGINT", 130],
    ] as const)
      it(
        `${signal} ${where}: training saves what it has and ends with ${code}`,
        async () => {
          const out = `${signal}-${start.length}`;
          const args = training(out, "--steps 100000");
          const began = (text: string): boolean => text.includes("training on ");
          const end = await runToEnd([...start, ...args], began, (child) => {
            // After the first step, which compiles; before it there is nothing to save.
            setTimeout(() => child.kill(signal), 4000);
          });
          expect(end.code).toBe(code);
          expect(end.stderr).toMatch(/seed 1\b/);
          expect(end.stderr).toMatch(
            /saved in .* at step \d+ of 100000; the same command goes on from there/,
          );
          expect(existsSync(join(folder, out, "training/latest.json"))).toBe(true);
          expect(existsSync(join(folder, out, "model.safetensors"))).toBe(true);
        },
        LIMIT,
      );

  it(
    "a second signal ends training at once",
    async () => {
      const args = training("twice", "--steps 100000");
      const began = (text: string): boolean => text.includes("training on ");
      const end = await runToEnd([node, cli, ...args], began, (child) => {
        setTimeout(() => child.kill("SIGTERM"), 100);
        setTimeout(() => child.kill("SIGTERM"), 1000);
      });
      expect(end.code).toBe(143);
      expect(end.after).toBeLessThan(5000);
    },
    LIMIT,
  );

  it(
    "generate | head: the end of the reader is silent, and a success",
    () => {
      const command = `'${node}' '${cli}' generate --greedy -n 60 2>err | head -c 20; echo " \${PIPESTATUS[0]}"`;
      const { stdout } = spawnSync("bash", ["-c", command], { cwd: folder, encoding: "utf8" });
      expect(stdout).toMatch(/ 0\n$/);
      expect(readFileSync(join(folder, "err"), "utf8")).not.toMatch(/EPIPE|error|\n\s+at /);
    },
    LIMIT,
  );

  it(
    "a full disk is one line and code 1, as standard output and as a file",
    async ({ skip }) => {
      if (!existsSync("/dev/full")) skip("there is no /dev/full");
      const full = openSync("/dev/full", "w");
      const child = spawn(node, [cli, "--help"], { stdio: ["ignore", full, "pipe"] });
      closeSync(full);
      let stderr = "";
      child.stderr!.on("data", (data: Buffer) => (stderr += data.toString()));
      const code = await new Promise((resolve) => child.once("close", resolve));
      expect([code, stderr.trim().split("\n").length]).toEqual([1, 1]);
      expect(stderr).toMatch(/^error: standard output: ENOSPC/);
      const file = await runToEnd([node, cli, "stories", "-n", "2", "--out", "/dev/full"]);
      expect(file.code).toBe(1);
      expect(file.stderr).toBe("error: /dev/full: cannot be written: no space is left on the device\n");
    },
    LIMIT,
  );

  const BAD: readonly (readonly [string, string, RegExp])[] = [
    ["a folder that is missing", "none/x", /the folder .*none does not exist/],
    ["a folder", ".", /\. is a folder; it must be a file/],
    ["a path through a file", "stories.txt/x", /stories\.txt is not a folder/],
    ["a name that is too long", "n".repeat(300), /the name is too long/],
  ];
  const WRITERS = [
    ["stories", "--out"],
    ["logits", "--ids", "stories.txt", "--out"],
    ["experts", "--svg"],
    ["experts", "--out"],
    ["edit", "--report"],
    ["edit-survey", "--facts", "stories.txt", "--report"],
    ["evaluate-stories", "--training", "stories.txt", "--out"],
    ["compare", "a.json", "--table"],
  ];
  it(
    "an output file that cannot be written is one line before the work, in every command",
    async () => {
      for (const [i, command] of WRITERS.entries()) {
        const [what, path, message] = BAD[i % BAD.length]!;
        const { code, stderr } = await runToEnd([node, cli, ...command, path]);
        const where = `${command.join(" ")}: ${what}`;
        expect(code, where).toBe(1);
        expect(stderr, where).toMatch(message);
        expect(stderr.trim().split("\n").length, `${where}: ${stderr}`).toBe(1);
      }
    },
    LIMIT,
  );

  it(
    "an output folder that cannot be made is one line before the work, in every command",
    async () => {
      for (const command of [["train", "--data", "stories.txt"], ["convert"], ["edit"]])
        for (const [path, message] of [
          ["stories.txt", /stories\.txt is a file; it must be a folder/],
          ["stories.txt/x/y", /stories\.txt is not a folder/],
        ] as const) {
          const { code, stderr } = await runToEnd([node, cli, ...command, "--out", path]);
          expect([code, stderr.trim().split("\n").length]).toEqual([1, 1]);
          expect(stderr).toMatch(message);
        }
    },
    LIMIT,
  );
});
