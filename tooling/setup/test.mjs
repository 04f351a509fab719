// npm test: build, lint, format, type-check, every package's tests, the tarballs. Ends with the tests' counts.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { spawnSync } from "node:child_process";
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

function step(name, command, args) {
  const started = performance.now();
  console.log(`\n== ${name}`);
  const { status } = spawnSync(command, args, { cwd: root, stdio: "inherit", env });
  console.log(
    `== ${name}: ${status === 0 ? "ok" : "FAILED"} (${((performance.now() - started) / 1000).toFixed(1)} s)`,
  );
  if (status !== 0) failures.push(name);
  return status === 0;
}

const folder = mkdtempSync(join(tmpdir(), "x-test-"));
const report = join(folder, "vitest.json");
const built = step("build", bin("turbo"), ["run", "build", "--output-logs=errors-only"]);
step("lint", bin("eslint"), ["."]);
step("arrows between files and folders", bin("depcruise"), [
  ...["packages", "apps", "tooling"],
  ...["--include-only", "/src/"],
]);
step("format", bin("prettier"), ["--check", "--log-level", "warn", "."]);
step("unused files and dependencies", bin("knip"), []);
if (built) step("sizes", bin("size-limit"), []);
if (built) step("tarballs", process.execPath, [join(root, "tooling/setup/check-tarballs.mjs")]);
step("tests", bin("vitest"), [
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
