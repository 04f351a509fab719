#!/usr/bin/env node
import { Command, InvalidArgumentError } from "commander";
import { openDevice } from "@x/kernels";
import { cpus, loadavg } from "node:os";
import { fileURLToPath } from "node:url";
import { changes, fell, otherBuild, showChanges } from "./comparison/against.js";
import { CASES, COLD_CASES, LARGE_CASES } from "./comparison/cases.js";
import { Holder, peerImplementations, PROJECT, type Implementation } from "./comparison/implementation.js";
import type { Limits } from "./measure/limits.js";
import { installPeers } from "./comparison/peers.js";
import { showLimits, table, writeJson, type Report } from "./comparison/report.js";
import { limitsOf, measureCase, measureCold, type Row } from "./comparison/run.js";
import { SUITES } from "./suites/suites.js";

interface Flags {
  readonly peers?: true;
  readonly against?: string;
  readonly filter: string;
  readonly json?: string;
  readonly quick?: true;
  readonly large?: true;
  readonly cold: boolean;
  readonly limits: boolean;
  readonly wasm: boolean;
  readonly suite?: string;
  readonly subgroups: boolean;
  readonly profile?: true;
}

const say = (line: string): void => {
  console.log(line);
};

const slug = (name: string): string =>
  name
    .toLowerCase()
    .replace(/\(.*?\)/g, "")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "");

/** Where results go unless told otherwise. */
const resultPath = (kind: string, adapter: string, date: string): string =>
  fileURLToPath(new URL(`../results/${kind}-${slug(adapter)}-${date.slice(0, 10)}.json`, import.meta.url));

const host = () => ({
  cpu: cpus()[0]?.model ?? "",
  cores: cpus().length,
  node: process.version,
  load: loadavg()[0] ?? 0,
});

async function runSuite(name: string, flags: Flags): Promise<void> {
  const suite = await SUITES[name]!();
  const gpu = await openDevice();
  try {
    const date = new Date().toISOString();
    say(`${name}: ${suite.description}\nadapter: ${gpu.info.name}`);
    const result = await suite.run(gpu, { quick: flags.quick === true, filter: flags.filter, say });
    const path = flags.json ?? resultPath(name, gpu.info.name, date);
    await writeJson(path, { date, adapter: gpu.info.name, host: host(), suite: name, result });
    say(`written: ${path}`);
  } finally {
    gpu.destroy();
  }
}

async function profile(flags: Flags): Promise<void> {
  const holder = await Holder.open(PROJECT, { options: { features: { subgroups: flags.subgroups } } });
  try {
    for (const bench of CASES.filter((c) => c.name.includes(flags.filter))) {
      const { kind, options } = bench;
      await holder.ask({ op: "prepare", kind, options, inputs: bench.inputs() });
      await holder.ask({ op: "profile" });
      const times = await holder.ask<{ kernel: string; calls: number; milliseconds: number }[]>({
        op: "profile",
      });
      const total = times.reduce((sum, t) => sum + t.milliseconds, 0);
      say(`${bench.name}: ${total.toFixed(2)} ms in kernels`);
      for (const t of times)
        say(`  ${t.milliseconds.toFixed(2).padStart(9)} ms  ${String(t.calls).padStart(4)} x ${t.kernel}`);
    }
  } finally {
    await holder.close();
  }
}

async function runTable(flags: Flags): Promise<void> {
  const date = new Date().toISOString();
  const implementations: Implementation[] = [PROJECT];
  if (flags.peers) {
    const peers = peerImplementations(await installPeers(say));
    implementations.push(...peers.filter((p) => p.webgpu || flags.wasm));
  }
  const other = flags.against === undefined ? undefined : otherBuild(flags.against);
  if (other) implementations.push(other);
  const holders: Holder[] = [];
  const rows: Row[] = [];
  let limits: Limits | undefined;
  try {
    for (const implementation of implementations) {
      const own = implementation === PROJECT || implementation === other;
      try {
        holders.push(
          await Holder.open(
            implementation,
            own ? { options: { features: { subgroups: flags.subgroups } } } : {},
          ),
        );
      } catch (error) {
        if (own) throw error;
        say(
          `${implementation.name} cannot run here: ${error instanceof Error ? error.message : String(error)}`,
        );
      }
    }
    const running = holders.map((h) => h.implementation);
    for (const h of holders) say(`${h.implementation.name} ${h.opened.version} on ${h.opened.adapter}`);
    if (flags.limits) {
      limits = await limitsOf(holders[0]!);
      say(showLimits(limits));
    }
    const ownBuilds = holders.filter((h) => [PROJECT, other].includes(h.implementation));
    const options = { quick: flags.quick === true, say, wake: holders[0]!.opened.software === false };
    const gpus = holders.filter((h) => h.implementation.webgpu);
    const cases = flags.large ? [...CASES, ...LARGE_CASES] : CASES;
    for (const bench of cases.filter((c) => c.name.includes(flags.filter))) {
      const able = bench.projectOnly ? ownBuilds : LARGE_CASES.includes(bench) ? gpus : holders;
      const row = await measureCase(bench, able, options);
      rows.push(row);
      say(table([row], running, PROJECT).split("\n")[2]!.replace(/ +/g, " "));
      for (const [name, result] of Object.entries(row.results))
        if (result.status === "failed") say(`  ${name}: ${result.reason}`);
    }
    if (flags.cold)
      for (const bench of COLD_CASES.filter((c) => `first ${c.name}, cold`.includes(flags.filter)))
        rows.push(
          await measureCold(
            bench,
            running.filter((i) => i.webgpu),
          ),
        );
    const adapter = holders[0]!.opened.adapter;
    const versions = Object.fromEntries(holders.map((h) => [h.implementation.name, h.opened.version]));
    say(`\n${table(rows, running, PROJECT)}\n`);
    const report: Report = { date, adapter, host: host(), versions, limits, rows };
    const path = flags.json ?? resultPath(flags.peers ? "peers" : "project", adapter, date);
    if (flags.json !== undefined || flags.filter === "") {
      await writeJson(path, report);
      say(`written: ${path}`);
    }
    if (other) {
      const all = changes(rows, PROJECT, other);
      say(showChanges(all, other));
      if (all.some(fell)) process.exitCode = 1;
    }
    const wrong = rows.some((row) => row.results[PROJECT.name]?.status !== "ok");
    if (wrong) process.exitCode = 1;
  } finally {
    await Promise.all(holders.map((h) => h.close()));
  }
}

const program = new Command("bench")
  .description(
    "Measure the adapter's limits and this project; every output is checked against float64 before it is timed.",
  )
  .option("--peers", "install jax-js and TensorFlow.js beside the workspace and measure them in turn")
  .option(
    "--against <checkout>",
    "measure another checkout's build in turn, and end with status 1 if a row fell by more than the noise",
  )
  .option("--filter <text>", "only rows whose name holds this", "")
  .option("--json <file>", "where to write the results (default: tooling/bench/results/)")
  .option("--quick", "three rounds instead of nine")
  .option("--large", "also products of 2048 and 4096, for a GPU")
  .option("--no-cold", "leave out the first calls with an empty shader cache")
  .option("--no-limits", "leave out the adapter's limits")
  .option("--no-wasm", "leave out the peers' WebAssembly back ends")
  .option("--no-subgroups", "this project without subgroups")
  .option("--profile", "time every kernel of this project's rows by timestamps instead")
  .option("--suite <name>", `a table of its own: ${Object.keys(SUITES).join(", ")}`, (name: string) => {
    if (!Object.hasOwn(SUITES, name))
      throw new InvalidArgumentError(`known suites: ${Object.keys(SUITES).join(", ")}`);
    return name;
  })
  .action(async (flags: Flags) => {
    if (flags.suite !== undefined) await runSuite(flags.suite, flags);
    else if (flags.profile) await profile(flags);
    else await runTable(flags);
  });

program.parseAsync().catch((error: unknown) => {
  console.error(error instanceof Error ? `error: ${error.message}` : error);
  process.exitCode = 1;
});
