// A WebGPU adapter for Dawn: what the machine has, else Mesa's software Vulkan driver from the distribution.
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const packages = ["libvulkan1", "mesa-vulkan-drivers"];

const probe = `
const { create, globals } = require("webgpu");
Object.assign(globalThis, globals);
create([]).requestAdapter().then((adapter) => {
  if (!adapter) process.exit(3);
  console.log(adapter.info.description || adapter.info.device || adapter.info.vendor);
  process.exit(0);
}, () => process.exit(3));
`;

/** The adapter's name, or why there is none. */
function probeAdapter() {
  const require = createRequire(join(root, "packages/kernels/package.json"));
  const code = probe.replace('require("webgpu")', `require(${JSON.stringify(require.resolve("webgpu"))})`);
  const result = spawnSync(process.execPath, ["-e", code], { encoding: "utf8", timeout: 60_000 });
  if (result.status === 0) return { name: result.stdout.trim().split("\n").at(-1) ?? "" };
  return { reason: result.status === 3 ? "Dawn found no adapter" : (result.stderr ?? "").trim() };
}

/** Changes when a driver comes or goes, so that the probe need not run each time. */
function driverKey() {
  const folders = ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"];
  return JSON.stringify([
    process.env.VK_ICD_FILENAMES,
    process.env.VK_DRIVER_FILES,
    ...folders.map((f) => (existsSync(f) ? readdirSync(f) : [])),
  ]);
}

export function osRelease() {
  try {
    return Object.fromEntries(
      [...readFileSync("/etc/os-release", "utf8").matchAll(/^(\w+)="?([^"\n]*)"?$/gm)].map(
        ([, key, value]) => [key, value],
      ),
    );
  } catch {
    return {};
  }
}

/** The entry of the machine's own apt configuration that serves its release: mirror and signing key. */
export function findMirror(sources, codename) {
  for (const { file, text } of sources) {
    if (file.endsWith(".list")) {
      for (const line of text.split("\n")) {
        const match = /^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s/.exec(`${line} `);
        if (match?.[3] === codename) return { uri: match[2], options: match[1] ?? "" };
      }
    } else {
      for (const stanza of text.split(/\n\s*\n/)) {
        const lines = stanza.split("\n").filter((line) => !line.startsWith("#"));
        const field = (name) =>
          lines
            .find((line) => line.toLowerCase().startsWith(`${name}:`))
            ?.slice(name.length + 1)
            .trim();
        if (!(field("types") ?? "").split(/\s+/).includes("deb") || field("enabled")?.toLowerCase() === "no")
          continue;
        if (!(field("suites") ?? "").split(/\s+/).includes(codename)) continue;
        const key = field("signed-by");
        return {
          uri: (field("uris") ?? "").split(/\s+/)[0],
          options: key?.startsWith("/") ? `signed-by=${key}` : "",
        };
      }
    }
  }
  return undefined;
}

export function aptSources() {
  const files = ["/etc/apt/sources.list"];
  const folder = "/etc/apt/sources.list.d";
  if (existsSync(folder)) files.push(...readdirSync(folder).map((name) => join(folder, name)));
  return files
    .filter((f) => existsSync(f) && /\.(list|sources)$/.test(f))
    .map((file) => ({ file, text: readFileSync(file, "utf8") }));
}

/** Commands, in order, that install the driver here. */
function installPlan(release) {
  const codename = release.VERSION_CODENAME ?? "";
  const install = ["apt-get", "install", "-y", "--no-install-recommends"];
  const files = [];
  if (release.ID === "debian" && release.VERSION_ID === "12") {
    const suite = `${codename}-backports`;
    const sources = aptSources();
    if (!findMirror(sources, suite)) {
      const mirror = findMirror(sources, codename);
      if (!mirror) return undefined;
      const options = mirror.options ? `[${mirror.options}] ` : "";
      files.push({
        path: "/etc/apt/sources.list.d/x-backports.list",
        text: `deb ${options}${mirror.uri} ${suite} main\n`,
      });
    }
    install.push("-t", suite);
  }
  return {
    files,
    commands: [
      ["apt-get", "update"],
      [...install, ...packages],
    ],
  };
}

function rights() {
  if (process.getuid?.() === 0) return [];
  const sudo = spawnSync("sudo", ["-n", "true"], { stdio: "ignore" });
  return sudo.status === 0 ? ["sudo", "-n"] : undefined;
}

function stop(message) {
  console.error(`\n${message}\n`);
  process.exit(1);
}

/** Make sure of an adapter; true if `stamp` has changed. */
export function ensureAdapter(stamp) {
  if (stamp.adapter !== undefined && stamp.drivers === driverKey()) return false;
  let found = probeAdapter();
  if (found.name === undefined && process.platform === "linux") {
    const release = osRelease();
    const plan = existsSync("/usr/bin/apt-get") ? installPlan(release) : undefined;
    const shown = plan
      ? [
          ...plan.files.map((f) => `echo '${f.text.trim()}' > ${f.path}`),
          ...plan.commands.map((c) => c.join(" ")),
        ].join("\n  ")
      : "your distribution's Vulkan loader and Mesa's Vulkan drivers, version 25 or newer (lavapipe)";
    const prefix = rights();
    if (!plan || !prefix) {
      stop(
        `No WebGPU adapter (${found.reason}). Install your GPU's Vulkan driver, or for software rendering, as root:\n  ${shown}`,
      );
    }
    console.error(`No WebGPU adapter (${found.reason}); installing Mesa's software Vulkan driver ...`);
    for (const file of plan.files) {
      if (prefix.length === 0) writeFileSync(file.path, file.text);
      else
        spawnSync(prefix[0], [...prefix.slice(1), "tee", file.path], {
          input: file.text,
          stdio: ["pipe", "ignore", "inherit"],
        });
    }
    for (const command of plan.commands) {
      const [program, ...args] = [...prefix, ...command];
      const result = spawnSync(program, args, {
        stdio: ["ignore", 2, 2],
        env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
      });
      if (result.status !== 0 && command[1] !== "update")
        stop(`Installing the driver failed. As root:\n  ${shown}`);
    }
    found = probeAdapter();
  }
  if (found.name === undefined) stop(`No WebGPU adapter: ${found.reason}.`);
  console.error(`WebGPU adapter: ${found.name}`);
  stamp.adapter = found.name;
  stamp.drivers = driverKey();
  return true;
}

/**
 * A browser for the browser test, where it can be had: Debian's Chromium, installed as root or with sudo. Without one
 * the test says that it is left out. True if `stamp` has changed.
 */
export function ensureBrowser(stamp) {
  const known = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
  if (process.env.CHROMIUM_PATH || known.some((path) => existsSync(path)) || stamp.browser !== undefined)
    return false;
  const prefix = rights();
  const { ID } = osRelease();
  stamp.browser = "none";
  if (ID !== "debian" || !prefix || !existsSync("/usr/bin/apt-get")) {
    console.error("No Chromium for the browser test; on Debian: apt-get install chromium");
    return true;
  }
  console.error("Installing Chromium for the browser test ...");
  const commands = [
    ["apt-get", "update"],
    ["apt-get", "install", "-y", "--no-install-recommends", "chromium"],
  ];
  for (const command of commands) {
    const [program, ...args] = [...prefix, ...command];
    spawnSync(program, args, {
      stdio: ["ignore", "ignore", 2],
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    });
  }
  if (!existsSync(known[0])) console.error("Chromium could not be installed; the browser test is left out.");
  return true;
}
