// The file of a package for a browser without a bundler: dist/browser, from the compiled dist, with @x/kernels outside it.
//   node tooling/release/bundle.mjs [PACKAGE FOLDER...]      (by default the current folder)
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { build } from "esbuild";

/** Public entries, by their names below dist: "./safetensors" is dist/safetensors.js. */
function entries(folder) {
  const { exports } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  return Object.values(exports)
    .map((entry) => entry.default)
    .filter((file) => file !== undefined && !file.startsWith("./dist/browser/"));
}

/** The folder of the package that a file of node_modules belongs to. */
function packageOf(file) {
  let folder = dirname(file);
  while (!existsSync(join(folder, "package.json"))) folder = dirname(folder);
  return folder;
}

/** Libraries inside the bundle keep their licences beside it. */
function writeLicences(outdir, inputs) {
  const libraries = new Set(inputs.filter((file) => file.includes("node_modules")).map(packageOf));
  const texts = [...libraries].sort().flatMap((library) => {
    const file = ["LICENSE", "LICENSE.md", "license"].map((n) => join(library, n)).find(existsSync);
    const { name } = JSON.parse(readFileSync(join(library, "package.json"), "utf8"));
    if (name === undefined) return [];
    if (file === undefined) throw new Error(`${name} has no licence file`);
    return [`${name}\n\n${readFileSync(file, "utf8").trim()}\n`];
  });
  if (texts.length > 0) writeFileSync(join(outdir, "LICENSES.txt"), texts.join("\n\n"));
}

for (const folder of (process.argv.length > 2 ? process.argv.slice(2) : ["."]).map((path) => resolve(path))) {
  const outdir = join(folder, "dist/browser");
  rmSync(outdir, { recursive: true, force: true });
  const { metafile } = await build({
    absWorkingDir: folder,
    entryPoints: entries(folder),
    outdir,
    outbase: join(folder, "dist"),
    bundle: true,
    // What several entries share is one chunk, so that an error or a tensor is of one class in all of them.
    splitting: true,
    chunkNames: "shared-[hash]",
    format: "esm",
    platform: "browser",
    target: "es2022",
    minify: true,
    // The sources themselves are in the package.
    sourcemap: "linked",
    sourcesContent: false,
    metafile: true,
    logLevel: "warning",
    // One copy of kernels for all packages; and a large library that is loaded only when it is needed.
    external: ["@x/kernels", "@huggingface/tokenizers"],
  });
  writeLicences(
    outdir,
    Object.keys(metafile.inputs).map((file) => resolve(folder, file)),
  );
  const size = Object.values(metafile.outputs).reduce((a, { bytes }) => a + bytes, 0);
  if (size === 0) throw new Error(`${relative(".", outdir)} is empty`);
}
