// Everything that a command needs before it runs, done once: dependencies, build, a WebGPU adapter.
//   node tooling/setup/setup.mjs [-- COMMAND ARGUMENTS...]
// Node's own modules only: this runs on a fresh clone.
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { ensureAdapter, ensureBrowser } from "./adapter.mjs";

export const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const stampFile = join(root, "node_modules/.cache/x-setup.json");
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const workspaces = ["packages", "apps", "tooling"];

/** Ends the process with a message and no stack. */
export function fail(message) {
  console.error(`\n${message}\n`);
  process.exit(1);
}

export function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: "inherit", ...options });
  if (result.error) fail(`${command} could not be started: ${result.error.message}`);
  return result.status ?? 1;
}

/** Run a tool that the workspace has installed. */
export function tool(name, args, options) {
  return run(join(root, "node_modules/.bin", name), args, options);
}

function readStamp() {
  try {
    return JSON.parse(readFileSync(stampFile, "utf8"));
  } catch {
    return {};
  }
}

function writeStamp(stamp) {
  mkdirSync(dirname(stampFile), { recursive: true });
  writeFileSync(stampFile, JSON.stringify(stamp));
}

function members() {
  return workspaces.flatMap((folder) =>
    readdirSync(join(root, folder))
      .map((name) => join(root, folder, name))
      .filter((path) => existsSync(join(path, "package.json"))),
  );
}

function dependencyKey() {
  const hash = createHash("sha256").update(process.version);
  for (const folder of [root, ...members()]) hash.update(readFileSync(join(folder, "package.json")));
  for (const name of ["pnpm-lock.yaml", "pnpm-workspace.yaml"]) hash.update(readFileSync(join(root, name)));
  return hash.digest("hex");
}

/** Path, size and time of every file that the build reads. */
function sourceKey() {
  const hash = createHash("sha256");
  const walk = (folder) => {
    for (const entry of readdirSync(folder, { withFileTypes: true }).sort((a, b) =>
      a.name < b.name ? -1 : 1,
    )) {
      const path = join(folder, entry.name);
      if (entry.isDirectory()) walk(path);
      else {
        const { size, mtimeMs } = statSync(path);
        hash.update(`${path}\0${size}\0${mtimeMs}\n`);
      }
    }
  };
  for (const folder of members()) {
    if (existsSync(join(folder, "src"))) walk(join(folder, "src"));
    hash.update(String(existsSync(join(folder, "dist/.tsbuildinfo"))));
  }
  return hash.digest("hex");
}

function ensureNode() {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major > 20 || (major === 20 && minor >= 19)) return;
  fail(`Node ${process.versions.node} runs this; it must be ${manifest.engines.node}.`);
}

function ensureDependencies(stamp) {
  const key = dependencyKey();
  if (stamp.dependencies === key && existsSync(join(root, "node_modules/.bin/tsc"))) return;
  console.error("Installing dependencies ...");
  const pnpm = ["--yes", manifest.packageManager, "install", "--frozen-lockfile", "--reporter=append-only"];
  if (run("npx", pnpm, { stdio: ["ignore", 2, 2], env: { ...process.env, CI: "true" } }) !== 0) {
    fail(`Installing the dependencies failed (npx ${pnpm.join(" ")}). What it printed is above.`);
  }
  stamp.dependencies = key;
  delete stamp.sources;
  writeStamp(stamp);
}

function ensureBuild(stamp) {
  if (stamp.sources === sourceKey()) return;
  console.error("Building ...");
  const status = tool("turbo", ["run", "build", "--output-logs=errors-only", "--log-order=stream"], {
    stdio: ["ignore", 2, 2],
    env: {
      ...process.env,
      TURBO_TELEMETRY_DISABLED: "1",
      TURBO_NO_UPDATE_NOTIFIER: "1",
      PATH: `${join(root, "node_modules/.bin")}${delimiter}${process.env.PATH ?? ""}`,
    },
  });
  if (status !== 0) fail("The build failed. The compiler's messages are above.");
  stamp.sources = sourceKey();
  writeStamp(stamp);
}

const programs = {
  "reference-model": "apps/reference-model/dist/cli.js",
  conformance: "tooling/conformance/dist/cli.js",
  bench: "tooling/bench/dist/cli.js",
  test: "tooling/setup/test.mjs",
};

/**
 * Run a program until it ends, and return its exit code. Signals are the program's to answer: it may have something to
 * save, so this process hands them on and waits.
 */
function runProgram(name, args) {
  // Paths on the command line are the caller's: npm changes to the package's folder, and says where it was called.
  const cwd = process.env.INIT_CWD ?? process.cwd();
  const child = spawn(process.execPath, [join(root, programs[name]), ...args], { cwd, stdio: "inherit" });
  for (const signal of ["SIGHUP", "SIGINT", "SIGTERM"]) process.on(signal, () => child.kill(signal));
  return new Promise((resolve) => {
    child.once("error", (error) => fail(`${name} could not be started: ${error.message}`));
    // A shell has the exit code 128 and the signal's number for a program that a signal ended.
    child.once("exit", (code, signal) => resolve(code ?? 128 + constants.signals[signal]));
  });
}

const separator = process.argv.indexOf("--");
const [name, ...rest] = separator < 0 ? [] : process.argv.slice(separator + 1);
if (name !== undefined && !(name in programs))
  fail(`Unknown command ${name}; known: ${Object.keys(programs).join(", ")}.`);
ensureNode();
const stamp = readStamp();
ensureDependencies(stamp);
if (name !== "test") ensureBuild(stamp);
if (ensureAdapter(stamp)) writeStamp(stamp);
if (name === "test" && ensureBrowser(stamp)) writeStamp(stamp);
if (name !== undefined) {
  process.exitCode = await runProgram(name, rest);
}
