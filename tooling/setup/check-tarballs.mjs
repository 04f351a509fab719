// publint and arethetypeswrong over the tarball of every public package.
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const bin = (name) => join(root, "node_modules/.bin", name);
let failed = 0;
for (const name of readdirSync(join(root, "packages"))) {
  const cwd = join(root, "packages", name);
  if (JSON.parse(readFileSync(join(cwd, "package.json"), "utf8")).private) continue;
  const checks = [
    ["publint", ["--strict"]],
    ["attw", ["--pack", ".", "--profile", "esm-only", "--format", "ascii"]],
  ];
  for (const [tool, args] of checks) {
    const { status, stdout, stderr } = spawnSync(bin(tool), args, {
      cwd,
      encoding: "utf8",
      env: { ...process.env, NO_COLOR: "1" },
    });
    console.log(`${name}: ${tool} ${status === 0 ? "ok" : "FAILED"}`);
    if (status !== 0) {
      failed++;
      console.log(stdout, stderr);
    }
  }
}
process.exit(failed === 0 ? 0 : 1);
