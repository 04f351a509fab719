import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join, normalize } from "node:path";
import { build } from "esbuild";
import { repository } from "./workspace.js";

const PLACES = [
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/usr/bin/google-chrome-stable",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

/** A Chromium of this machine: `CHROMIUM_PATH`, or where systems install it. */
export function findChromium(): string | undefined {
  return [process.env["CHROMIUM_PATH"], ...PLACES].find((path) => path !== undefined && existsSync(path));
}

/** WebGPU in a headless Chromium without a GPU; nothing that calls home. */
export const CHROMIUM_FLAGS: readonly string[] = [
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export interface Bundle {
  readonly code: string;
  /** Files that went into it, relative to the repository. */
  readonly files: readonly string[];
}

/** Bundle a file of `tooling/release` as a browser gets it. Node's modules are replaced only if `files` stands in. */
export async function bundle(entry: string, files?: string): Promise<Bundle> {
  const folder = join(repository, "tooling/release");
  const result = await build({
    absWorkingDir: folder,
    entryPoints: [entry],
    bundle: true,
    format: "esm",
    platform: "browser",
    target: "es2022",
    write: false,
    metafile: true,
    minify: false,
    logLevel: "silent",
    // The optional library for other tokenizer families is loaded on demand, and not here.
    external: ["@huggingface/tokenizers"],
    ...(files === undefined
      ? {}
      : {
          alias: Object.fromEntries(["node:fs/promises", "node:path"].map((n) => [n, join(folder, files)])),
        }),
  });
  return { code: result.outputFiles[0]!.text, files: Object.keys(result.metafile.inputs) };
}

export interface Site {
  readonly url: string;
  close(): Promise<void>;
}

/**
 * Serve an empty page with a script, the golden files below /golden/, and at /static a page without a bundler whose
 * packages lie below /node_modules/, on this machine only.
 */
export async function serve(script: string, golden: string, staticPage = ""): Promise<Site> {
  const server: Server = createServer((request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname));
    const send = (type: string, body: string | Uint8Array): void => {
      response.setHeader("content-type", type);
      response.end(body);
    };
    if (path === "/")
      send("text/html", '<!doctype html><title>x</title><script type="module" src="/page.js"></script>');
    else if (path === "/page.js") send("text/javascript", script);
    else if (path === "/static") send("text/html", staticPage);
    else if (/^\/node_modules\/@x\/[\w-]+\/dist\/browser\/[\w-]+\.js$/.test(path))
      send("text/javascript", readFileSync(join(repository, path.replace("/node_modules/@x/", "packages/"))));
    else if (path.startsWith("/golden/") && existsSync(join(golden, path.slice(7)))) {
      const target = join(golden, path.slice(7));
      if (path.endsWith("/")) {
        const entries = readdirSync(target, { withFileTypes: true });
        send(
          "application/json",
          JSON.stringify(entries.map((e) => ({ name: e.name, folder: e.isDirectory() }))),
        );
      } else send("application/octet-stream", readFileSync(target));
    } else {
      response.statusCode = 404;
      response.end();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/`,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => {
          resolve();
        });
      }),
  };
}
