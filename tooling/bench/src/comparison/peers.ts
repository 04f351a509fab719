import { execFile } from "node:child_process";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

/** What `--peers` installs, outside the workspace's dependencies. Dawn in the version that the workspace uses. */
const VERSIONS: Readonly<Record<string, string>> = {
  "@jax-js/jax": "0.1.25",
  "@tensorflow/tfjs": "4.22.0",
  "@tensorflow/tfjs-backend-webgpu": "4.22.0",
  "@tensorflow/tfjs-backend-wasm": "4.22.0",
  webgpu: "0.6.2",
};

/** Install the peers in a cache folder, once. Gives the folder. */
export async function installPeers(say: (line: string) => void): Promise<string> {
  const root = fileURLToPath(new URL("../../../../", import.meta.url));
  const folder = join(root, "node_modules/.cache/bench-peers");
  const wanted = JSON.stringify({ private: true, type: "module", dependencies: VERSIONS }, undefined, 2);
  const stamp = join(folder, "installed.json");
  if ((await readFile(stamp, "utf8").catch(() => "")) === wanted) return folder;
  say(
    `installing the peers in ${folder}: ${Object.entries(VERSIONS)
      .map((v) => v.join("@"))
      .join(", ")}`,
  );
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "package.json"), wanted);
  await promisify(execFile)(
    "npm",
    ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"],
    {
      cwd: folder,
      shell: process.platform === "win32",
    },
  );
  await writeFile(stamp, wanted);
  return folder;
}
