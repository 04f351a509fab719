// What a newcomer sees: run commands in a fresh Debian without pnpm, Mesa or a browser.
//   node tooling/setup/clean-root.mjs [--suite bookworm] [--root DIR] [--keep] -- "npm start" "npm start" "npm test"
// Needs root and debootstrap. Takes this machine's Node, its package mirrors and certificates, and the committed files.
import { execFileSync, spawnSync } from "node:child_process";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { aptSources, findMirror, osRelease } from "./adapter.mjs";

const repository = join(dirname(fileURLToPath(import.meta.url)), "../..");
const { values, positionals } = parseArgs({
  options: { suite: { type: "string" }, root: { type: "string" }, keep: { type: "boolean" } },
  allowPositionals: true,
});
const codename = osRelease().VERSION_CODENAME ?? "";
const suite = values.suite ?? codename;
const root = values.root ?? mkdtempSync(join(tmpdir(), "x-clean-root-"));
const home = "/home/newcomer/x";

function run(command, args, options = {}) {
  execFileSync(command, args, { stdio: ["ignore", 2, 2], ...options });
}

function prepare() {
  const sources = aptSources();
  const mirror = findMirror(sources, codename);
  if (!mirror) throw new Error("this machine's package mirror was not found in /etc/apt");
  run("debootstrap", ["--variant=minbase", "--include=ca-certificates,git", suite, root, mirror.uri]);
  const keys = mirror.options === "" ? "" : `[${mirror.options}] `;
  writeFileSync(join(root, "etc/apt/sources.list"), `deb ${keys}${mirror.uri} ${suite} main\n`);
  for (const file of ["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"])
    if (existsSync(file)) copyFileSync(file, join(root, file));
  // Node as its own installer puts it, and the registry that this machine's npm uses.
  const npm = dirname(
    dirname(
      execFileSync("readlink", ["-f", execFileSync("which", ["npm"]).toString().trim()])
        .toString()
        .trim(),
    ),
  );
  mkdirSync(join(root, "usr/local/etc"), { recursive: true });
  copyFileSync(process.execPath, join(root, "usr/local/bin/node"));
  cpSync(npm, join(root, "usr/local/lib/node_modules/npm"), { recursive: true });
  for (const name of ["npm", "npx"])
    symlinkSync(`../lib/node_modules/npm/bin/${name}-cli.js`, join(root, "usr/local/bin", name));
  const registry = execFileSync("npm", ["config", "get", "registry"]).toString().trim();
  writeFileSync(
    join(root, "usr/local/etc/npmrc"),
    `registry=${registry}\ncafile=/etc/ssl/certs/ca-certificates.crt\nupdate-notifier=false\n`,
  );
  mkdirSync(join(root, home), { recursive: true });
  const archive = execFileSync("git", ["archive", "HEAD"], { cwd: repository, maxBuffer: 2 ** 30 });
  run("tar", ["x", "-C", join(root, home)], { input: archive, stdio: ["pipe", 2, 2] });
}

/** Run a command inside, with its own mounts, which end with it. */
function inside(command) {
  const script = `mount -t proc proc ${root}/proc && mount --rbind /dev ${root}/dev && exec chroot ${root} /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt /bin/sh -c 'cd ${home} && ${command}'`;
  const started = performance.now();
  console.log(`\n$ ${command}`);
  const { status } = spawnSync("unshare", ["--mount", "--pid", "--fork", "/bin/sh", "-c", script], {
    stdio: ["ignore", 1, 1],
  });
  console.log(
    `$ ${command}: ${status === 0 ? "ok" : `ended with ${status}`} after ${((performance.now() - started) / 1000).toFixed(1)} s`,
  );
  return status === 0;
}

if (process.getuid?.() !== 0) throw new Error("clean-root needs root");
let good = true;
try {
  if (!existsSync(join(root, home))) prepare();
  for (const command of positionals) good = inside(command) && good;
} finally {
  if (values.keep) console.error(`kept: ${root}`);
  else rmSync(root, { recursive: true, force: true });
}
process.exitCode = good ? 0 : 1;
