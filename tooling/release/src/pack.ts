import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import {
  execute,
  executeOrThrow,
  publicFolders,
  readManifest,
  repository,
  tool,
  type Finished,
} from "./workspace.js";

/** Pack every public package into a folder; gives the tarball of each name. */
export async function packAll(folder: string): Promise<Record<string, string>> {
  await executeOrThrow(tool("tsc"), ["-b", ...publicFolders()], { cwd: repository });
  mkdirSync(folder, { recursive: true });
  const filters = publicFolders().flatMap((path) => ["--filter", `./${path}`]);
  await executeOrThrow(tool("pnpm"), ["--recursive", ...filters, "pack", "--pack-destination", folder], {
    cwd: repository,
  });
  const files = readdirSync(folder);
  return Object.fromEntries(
    publicFolders().map((path) => {
      const { name, version } = readManifest(join(repository, path));
      const file = `${name.slice(1).replace("/", "-")}-${version}.tgz`;
      if (!files.includes(file)) throw new Error(`${name} gave no tarball ${file} (but ${files.join(", ")})`);
      return [name, join(folder, file)];
    }),
  );
}

/** Pack one folder with pnpm, which writes the workspace's versions into the manifest. */
async function packOne(from: string, to: string): Promise<string> {
  mkdirSync(to, { recursive: true });
  await executeOrThrow(tool("pnpm"), ["pack", "--pack-destination", to], { cwd: from });
  const tarball = readdirSync(to).find((name) => name.endsWith(".tgz"));
  if (tarball === undefined) throw new Error(`${from} gave no tarball`);
  return join(to, tarball);
}

/** A tarball with another version of a package. */
export async function repack(tarball: string, version: string, folder: string): Promise<string> {
  mkdirSync(folder, { recursive: true });
  await executeOrThrow("tar", ["xzf", tarball, "-C", folder], { cwd: folder });
  const file = join(folder, "package/package.json");
  writeFileSync(file, JSON.stringify({ ...readManifest(join(folder, "package")), version }, null, 2));
  return packOne(join(folder, "package"), join(folder, "packed"));
}

/** The folder of a dependency that one of the workspace's packages has. */
export const dependency = (from: string, name: string): string =>
  realpathSync(join(repository, from, "node_modules", name));

/** Install tarballs with npm in a new application; nothing is fetched, for all there is lies on the disk. */
export function npmInstall(
  folder: string,
  dependencies: Readonly<Record<string, string>>,
): Promise<Finished> {
  mkdirSync(folder, { recursive: true });
  const manifest = {
    name: "application",
    private: true,
    type: "module",
    dependencies: Object.fromEntries(Object.entries(dependencies).map(([k, file]) => [k, `file:${file}`])),
  };
  writeFileSync(join(folder, "package.json"), JSON.stringify(manifest, null, 2));
  return execute("npm", ["install", "--offline", "--no-audit", "--no-fund", "--ignore-scripts"], {
    cwd: folder,
    env: { npm_config_update_notifier: "false" },
  });
}

/** Put a package of the workspace's into an application without a copy: Dawn alone is 51 MB. */
export function linkPackage(folder: string, name: string, target: string): void {
  const path = join(folder, "node_modules", name);
  mkdirSync(dirname(path), { recursive: true });
  symlinkSync(target, path, "dir");
}

/** A second, older copy of an installed package inside another one. */
export function nestCopy(folder: string, name: string, inside: string, version: string): void {
  const to = join(folder, "node_modules", inside, "node_modules", name);
  cpSync(join(folder, "node_modules", name), to, { recursive: true });
  const file = join(to, "dist/base/abi.js");
  const text = readFileSync(file, "utf8");
  writeFileSync(file, text.replace(/VERSION = "[^"]*"/, `VERSION = "${version}"`));
}
