// After `changeset version`: the version that @x/kernels names at run time is the one in its manifest.
import { readFileSync, writeFileSync } from "node:fs";

const folder = new URL("../../packages/kernels/", import.meta.url);
const { version } = JSON.parse(readFileSync(new URL("package.json", folder), "utf8"));
const file = new URL("src/abi.ts", folder);
const before = readFileSync(file, "utf8");
const after = before.replace(/^(export const VERSION = )"[^"]*";$/m, `$1"${version}";`);
if (!after.includes(`VERSION = "${version}"`)) throw new Error("packages/kernels/src/abi.ts has no VERSION");
writeFileSync(file, after);
