// The process that holds one back end of one peer: node worker.mjs LIBRARY BACKEND, where LIBRARY is jax or tfjs.
// It runs in the folder where the peers are installed, and answers requests as src/comparison/protocol.ts says.
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [library, backend, folder] = process.argv.slice(2);
const require = createRequire(join(folder, "package.json"));
/** Import a package of that folder. */
async function load(name) {
  const base = join(folder, "node_modules", name);
  const manifest = JSON.parse(await readFile(join(base, "package.json"), "utf8"));
  const entry = manifest.exports?.["."]?.import ?? manifest.exports?.["."]?.default;
  const path =
    typeof entry === "string"
      ? join(base, entry)
      : (entry?.default && join(base, entry.default)) || require.resolve(name);
  return { module: await import(pathToFileURL(path)), version: manifest.version };
}

/** jax-js uses iterator helpers, which browsers and Node 22 have. */
function provideIteratorHelpers() {
  const prototype = Object.getPrototypeOf(Object.getPrototypeOf([][Symbol.iterator]()));
  const helpers = {
    *map(fn) {
      let i = 0;
      for (const x of this) yield fn(x, i++);
    },
    *filter(fn) {
      let i = 0;
      for (const x of this) if (fn(x, i++)) yield x;
    },
    toArray() {
      return [...this];
    },
    some(fn) {
      return [...this].some((x, i) => fn(x, i));
    },
    every(fn) {
      return [...this].every((x, i) => fn(x, i));
    },
    find(fn) {
      return [...this].find((x, i) => fn(x, i));
    },
    reduce(...given) {
      return [...this].reduce(...given);
    },
    forEach(fn) {
      [...this].forEach((x, i) => fn(x, i));
    },
  };
  for (const [name, value] of Object.entries(helpers))
    if (!(name in prototype))
      Object.defineProperty(prototype, name, { value, configurable: true, writable: true });
}

/** The same Dawn that this project loads in Node, where the peers look for it: in navigator.gpu. */
async function provideWebGpu() {
  const { module } = await load("webgpu");
  for (const [key, value] of Object.entries(module.globals)) globalThis[key] ??= value;
  const gpu = module.create([]);
  Object.defineProperty(globalThis, "navigator", { value: { gpu, userAgent: "node" }, configurable: true });
  const adapter = await gpu.requestAdapter();
  return adapter.info.description || adapter.info.device;
}

let state;
let program;
async function answer(request) {
  switch (request.op) {
    case "open": {
      const adapter = backend === "webgpu" ? await provideWebGpu() : "CPU (WebAssembly)";
      provideIteratorHelpers();
      const { open } = await import(`./${library}.mjs`);
      state = await open(load, backend);
      return { version: state.version, adapter };
    }
    case "prepare": {
      program?.dispose();
      program = state.build(request.kind, request.options, request.inputs);
      if (!program) return undefined;
      await state.sync();
      const start = performance.now();
      await program.step();
      await state.sync();
      const first = performance.now() - start;
      return { outputs: await program.outputs(), first };
    }
    case "sample": {
      const start = performance.now();
      for (let i = 0; i < request.count; i++) await program.step();
      await state.sync();
      return { milliseconds: performance.now() - start };
    }
    case "release":
      program?.dispose();
      program = undefined;
      return undefined;
    default:
      throw new Error(`unknown request ${request.op}`);
  }
}

let last = Promise.resolve();
process.on("message", (request) => {
  last = last
    .then(() => answer(request))
    .then(
      (value) => ({ value }),
      (error) => ({ error: String(error?.stack ?? error) }),
    )
    .then((reply) => process.send(reply));
});
process.on("disconnect", () => process.exit(0));
