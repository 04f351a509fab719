// npm test: build, lint, format, type-check, every package's tests, the tarballs. Ends with the tests' counts.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { spawn } from "node:child_process";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const bin = (name) => join(root, "node_modules/.bin", name);
const env = {
  ...process.env,
  TURBO_TELEMETRY_DISABLED: "1",
  TURBO_NO_UPDATE_NOTIFIER: "1",
  NO_COLOR: "1",
  PATH: `${join(root, "node_modules/.bin")}${delimiter}${process.env.PATH ?? ""}`,
};
const failures = [];

/** Runs a command and says how it ended. What steps beside others print comes in one piece when they have ended. */
async function step(name, command, args, { quiet = false } = {}) {
  const started = performance.now();
  if (!quiet) console.log(`\n== ${name}`);
  const child = spawn(command, args, { cwd: root, stdio: quiet ? "pipe" : "inherit", env });
  const said = [];
  for (const stream of [child.stdout, child.stderr]) stream?.on("data", (data) => said.push(data));
  const status = await new Promise((resolve) => {
    child.on("error", (error) => {
      said.push(`${error.message}\n`);
      resolve(1);
    });
    child.on("close", resolve);
  });
  if (quiet)
    process.stdout.write(`\n== ${name}\n${Buffer.concat(said.map((data) => Buffer.from(data))).toString()}`);
  console.log(
    `== ${name}: ${status === 0 ? "ok" : "FAILED"} (${((performance.now() - started) / 1000).toFixed(1)} s)`,
  );
  if (status !== 0) failures.push(name);
  return status === 0;
}

const folder = mkdtempSync(join(tmpdir(), "x-test-"));
const report = join(folder, "vitest.json");
const built = await step("build", bin("turbo"), ["run", "build", "--output-logs=errors-only"]);
// Checks that use one core each, beside one another.
const quiet = { quiet: true };
await Promise.all([
  step("lint", bin("eslint"), ["."], quiet),
  (async () => {
    const modules = ["packages", "apps", "tooling", "--include-only", "/src/"];
    await step("arrows between files and folders", bin("depcruise"), modules, quiet);
    await step("format", bin("prettier"), ["--check", "--log-level", "warn", "."], quiet);
    await step("unused files and dependencies", bin("knip"), [], quiet);
    if (!built) return;
    await step("sizes", bin("size-limit"), [], quiet);
    await step("tarballs", process.execPath, [join(root, "tooling/setup/check-tarballs.mjs")], quiet);
  })(),
]);
await step("tests", bin("vitest"), [
  "run",
  "--reporter=default",
  "--reporter=json",
  `--outputFile.json=${report}`,
  ...process.argv.slice(2),
]);

let counts = { passed: 0, failed: 1, skipped: 0 };
try {
  const result = JSON.parse(readFileSync(report, "utf8"));
  counts = {
    passed: result.numPassedTests,
    failed: result.numFailedTests,
    skipped: result.numPendingTests + (result.numTodoTests ?? 0),
  };
  const skips = result.testResults.flatMap((file) =>
    file.assertionResults.filter((t) => t.status === "pending" || t.status === "skipped"),
  );
  for (const test of skips) console.log(`skipped: ${test.fullName}`);
} catch (error) {
  console.error(`no test report: ${error.message}`);
}
rmSync(folder, { recursive: true, force: true });
if (failures.length > 0) console.log(`\nfailed: ${failures.join(", ")}`);
// A failed step without a failed test counts as one failure.
const failed = counts.failed + failures.filter((name) => name !== "tests" || counts.failed === 0).length;
console.log(`\n${counts.passed} passed, ${failed} failed, ${counts.skipped} skipped`);
process.exit(failed === 0 ? 0 : 1);
