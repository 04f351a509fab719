import { createHash } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { readdir, readFile, readlink, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { ConfigError, FormatError, KernelsError } from "@x/kernels";
import { repository } from "@x/testing";
import { addHubOptions, fetchFromHub } from "../../hub_models.js";
import { modelSource } from "../source.js";
import { adapterFiles, hubId, modelFiles } from "./files.js";
import { commitOf, fileOf } from "./metadata.js";
import { snapshot, type SnapshotOptions } from "./snapshot.js";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const LARGE = "model.safetensors";
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const git = (bytes: Uint8Array): string =>
  createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

/** A server of one repository that speaks the Hub's protocol. */
class Hub {
  readonly files = new Map<string, Buffer>();
  /** What is asked for, with its range. */
  readonly requests: string[] = [];
  /** Ends the connection after so many bytes of the large file. */
  cutAt: number | undefined;
  /** Sends other content than the list says. */
  corrupt = false;
  status = 200;
  token: string | undefined;
  list: unknown;
  readonly #server: Server = createServer((request, response) => {
    this.#answer(request, response);
  });

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }
  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #json(response: ServerResponse, status: number, body: unknown): void {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(JSON.stringify(body));
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const { pathname } = new URL(request.url!, "http://x");
    const range = request.headers.range ?? "all";
    this.requests.push(`${pathname} ${range}`);
    if (this.token !== undefined && request.headers.authorization !== `Bearer ${this.token}`)
      this.#json(response, 401, { error: "Invalid username or password." });
    else if (this.status !== 200) this.#json(response, this.status, { error: "no" });
    else if (pathname === "/api/models/org/name/revision/main")
      this.#json(response, 200, { _id: "1", id: "org/name", sha: COMMIT, lastModified: "2024-01-01" });
    else if (pathname === `/api/models/org/name/tree/${COMMIT}`) this.#json(response, 200, this.#tree());
    else this.#file(pathname, range, response);
  }

  #tree(): unknown {
    if (this.list !== undefined) return this.list;
    return [...this.files].map(([path, bytes]) => ({
      type: "file",
      path,
      size: bytes.length,
      oid: git(bytes),
      ...(path === LARGE ? { lfs: { oid: sha256(bytes), size: bytes.length, pointerSize: 120 } } : {}),
    }));
  }

  #file(pathname: string, range: string, response: ServerResponse): void {
    const prefix = `/org/name/resolve/${COMMIT}/`;
    const name = pathname.slice(prefix.length);
    let bytes = pathname.startsWith(prefix) ? this.files.get(name) : undefined;
    if (!bytes) {
      this.#json(response, 404, { error: "Repository not found" });
      return;
    }
    if (this.corrupt) bytes = Buffer.from(bytes.map((byte) => byte ^ 1));
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(range) ?? [];
    const [from, to] = first === undefined ? [0, bytes.length - 1] : [Number(first), Number(last)];
    const part = bytes.subarray(from, to + 1);
    response.writeHead(first === undefined ? 200 : 206, {
      etag: `"${name}"`,
      "content-length": part.length,
      ...(first === undefined ? {} : { "content-range": `bytes ${from}-${to}/${bytes.length}` }),
    });
    if (this.cutAt !== undefined && name === LARGE && part.length > this.cutAt) {
      response.write(part.subarray(0, this.cutAt), () => setTimeout(() => response.destroy(), 50));
      return;
    }
    response.end(part);
  }
}

describe("models of the Hub", () => {
  let [folder, hub]: [string, Hub] = ["", new Hub()];
  const fetchIt = (options: SnapshotOptions = {}): Promise<string> =>
    snapshot(hubId("org/name")!, modelFiles, options);

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "x-hub-"));
    hub = new Hub();
    vi.stubEnv("HF_ENDPOINT", await hub.start());
    vi.stubEnv("HF_HOME", folder);
    for (const name of ["HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
      vi.stubEnv(name, undefined);
    const model = join(repository, "tooling/fixtures/models/llama");
    for (const name of ["config.json", LARGE]) hub.files.set(name, await readFile(join(model, name)));
    hub.files.set("README.md", Buffer.from("not needed"));
    hub.files.set("pytorch_model.bin", Buffer.from("not needed"));
    hub.files.set("tokenizer_config.json", Buffer.from("{}"));
  });
  afterEach(async () => {
    vi.unstubAllEnvs();
    await hub.stop();
    rmSync(folder, { recursive: true });
  });

  it("come into the cache as huggingface_hub has it, only what is needed, and once", async () => {
    const seen: number[] = [];
    const path = await fetchIt({ onBytes: (done, total) => seen.push(done / total) });
    const cache = join(folder, "hub/models--org--name");
    expect(path).toBe(join(cache, "snapshots", COMMIT));
    expect((await readdir(path)).sort()).toEqual(["config.json", LARGE, "tokenizer_config.json"]);
    expect(await readlink(join(path, LARGE))).toBe(`../../blobs/${sha256(hub.files.get(LARGE)!)}`);
    expect(await readFile(join(cache, "refs/main"), "utf8")).toBe(COMMIT);
    expect(seen.at(-1)).toBe(1);
    const opened = await (await modelSource(path)).open();
    expect(opened.tensors.size).toBeGreaterThan(10);
    await opened.close();
    const before = hub.requests.length;
    expect(await fetchIt()).toBe(path);
    expect(hub.requests.slice(before).filter((request) => request.includes("/resolve/"))).toEqual([]);
    // Of a commit nothing has to be asked.
    expect(await fetchIt({ revision: COMMIT })).toBe(path);
    expect(hub.requests).toHaveLength(before + 2);
  });

  it("go on after an interruption from where it was", async () => {
    hub.cutAt = 4096;
    await expect(fetchIt()).rejects.toThrow(
      /org\/name\/model\.safetensors: came to \d+ of \d+ bytes .*the same command goes on from there/,
    );
    const blobs = join(folder, "hub/models--org--name/blobs");
    const partial = (await readdir(blobs)).find((name) => name.endsWith(".incomplete"))!;
    const { length } = await readFile(join(blobs, partial));
    expect(length).toBeGreaterThan(0);
    hub.cutAt = undefined;
    const path = await fetchIt();
    const size = hub.files.get(LARGE)!.length;
    expect(hub.requests).toContain(`/org/name/resolve/${COMMIT}/${LARGE} bytes=${length}-${size - 1}`);
    expect(await readFile(join(path, LARGE))).toEqual(hub.files.get(LARGE));
  });

  it("are refused with content that is not what the list says, and none of it stays", async () => {
    hub.corrupt = true;
    await expect(fetchIt()).rejects.toThrow(
      /config\.json: has the hash [0-9a-f]{40}; the server's list says/,
    );
    const blobs = join(folder, "hub/models--org--name/blobs");
    expect(await readdir(blobs)).toEqual([]);
    hub.corrupt = false;
    // What an earlier try left may be damaged as well.
    await writeFile(join(blobs, `${sha256(hub.files.get(LARGE)!)}.incomplete`), "damaged");
    await expect(fetchIt()).rejects.toThrow(/model\.safetensors: has the hash/);
    await fetchIt();
  });

  it("are refused by the server: without a token, with another one, and where there is no such name", async () => {
    hub.token = "hf_right";
    await expect(fetchIt()).rejects.toThrow(/not for everyone: set HF_TOKEN.*the server says 401/);
    vi.stubEnv("HF_TOKEN", "hf_wrong");
    await expect(fetchIt()).rejects.toThrow(/the token in HF_TOKEN may not read it/);
    vi.stubEnv("HF_TOKEN", "right");
    await expect(fetchIt()).rejects.toThrow(/HF_TOKEN: does not begin with "hf_"/);
    vi.stubEnv("HF_TOKEN", "hf_right");
    await fetchIt();
    await expect(fetchIt({ revision: "other" })).rejects.toThrow(
      /does not exist or has no revision "other" \(the server says 404/,
    );
    await expect(fetchIt({ revision: "../up" })).rejects.toThrow(/--revision: is "\.\.\/up"/);
  });

  it("are taken from the cache without a connection", async () => {
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    await expect(fetchIt()).rejects.toThrow(/is not in the cache .*HF_HUB_OFFLINE is set/);
    vi.stubEnv("HF_HUB_OFFLINE", "0");
    const path = await fetchIt();
    const asked = hub.requests.length;
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    expect(await fetchIt()).toBe(path);
    expect(hub.requests).toHaveLength(asked);
    vi.stubEnv("HF_HUB_OFFLINE", "");
    vi.stubEnv("HF_ENDPOINT", "http://127.0.0.1:1");
    const warnings: string[] = [];
    expect(await fetchIt({ warn: (text) => warnings.push(text) })).toBe(path);
    expect(warnings[0]).toMatch(/taken from the cache, since the server cannot be asked/);
    rmSync(join(path, "config.json"));
    await expect(fetchIt()).rejects.toThrow(/cannot be fetched from http:\/\/127\.0\.0\.1:1/);
  });

  it("are what a command's --model names, unless a folder has that name", async () => {
    const given: unknown[] = [];
    const run = async (...args: string[]): Promise<void> => {
      const program = new Command().exitOverride().hook("preAction", (_, command) => fetchFromHub(command));
      program
        .command("info")
        .option("--model <path>")
        .action(({ model }: { model: string }) => {
          given.push(model);
        });
      addHubOptions(program);
      await program.parseAsync(["info", ...args], { from: "user" });
    };
    await run("--model", "org/name", "--revision", "main");
    expect(given).toEqual([join(folder, "hub/models--org--name/snapshots", COMMIT)]);
    const asked = hub.requests.length;
    await run("--model", "apps/reference-model");
    expect(given[1]).toBe("apps/reference-model");
    expect(hub.requests).toHaveLength(asked);
    await expect(run("--model", folder, "--revision", "main")).rejects.toThrow(/is not a repository of the/);
    await expect(run("--model", "org/other")).rejects.toThrow(/org\/other: is not a folder here/);
  });

  it("are not written outside the cache by a hostile list", async () => {
    for (const list of [
      [{ type: "file", path: "../config.json", size: 1, oid: COMMIT }],
      [{ type: "file", path: "config.json", size: 1, oid: "../../up" }],
      [{ type: "file", path: "config.json", size: -1, oid: COMMIT }],
      { no: "list" },
    ]) {
      hub.list = list;
      await expect(fetchIt()).rejects.toThrow(FormatError);
    }
  });
});

describe("what is asked for", () => {
  it("names of repositories", () => {
    expect(hubId("org/name")).toEqual({ repo: "org/name", file: undefined });
    expect(hubId("org/name/sub/q4.gguf")).toEqual({ repo: "org/name", file: "sub/q4.gguf" });
    for (const path of ["name", "/org/name", "./org/name", "org/../name", "a/b/c", "org/na me", "org/a--b"])
      expect(hubId(path), path).toBeUndefined();
  });

  it("the files of a model and of an adapter", () => {
    const id = { repo: "a/b", file: undefined };
    const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    const index = "model.safetensors.index.json";
    const others = ["README.md", "consolidated.safetensors", "tokenizer.json", "onnx/model.onnx"];
    expect(modelFiles(id, ["config.json", index, ...shards, ...others]).sort()).toEqual(
      ["config.json", "tokenizer.json", index, ...shards].sort(),
    );
    expect(() => modelFiles(id, ["config.json", index, shards[0]!])).toThrow(/has 1 of 2 shards/);
    expect(() => modelFiles(id, ["a.gguf", "b.gguf"])).toThrow(/name one as a\/b\/FILE: a\.gguf, b\.gguf/);
    expect(modelFiles({ ...id, file: "b.gguf" }, ["a.gguf", "b.gguf"])).toEqual(["b.gguf"]);
    expect(() => modelFiles(id, ["config.json", "pytorch_model.bin"])).toThrow(ConfigError);
    expect(() => adapterFiles(id, ["adapter_config.json"])).toThrow(/has no adapter_model\.safetensors/);
  });

  it("any answer of a server is read or refused by an error of this program", () => {
    const entry = fc.record(
      {
        type: fc.constantFrom("file", "directory", 1),
        path: fc.oneof(fc.string(), fc.constantFrom("../x", "a/./b", "/a", "a\\b")),
        size: fc.oneof(fc.integer(), fc.double(), fc.jsonValue()),
        oid: fc.oneof(fc.constant(COMMIT), fc.string()),
        lfs: fc.oneof(fc.jsonValue(), fc.record({ oid: fc.string(), size: fc.integer() })),
      },
      { requiredKeys: ["type"] },
    );
    fc.assert(
      fc.property(fc.oneof(entry, fc.jsonValue()), (given) => {
        for (const read of [fileOf, commitOf])
          try {
            const file = read("a/b", given);
            if (typeof file === "object") expect(file.path).not.toMatch(/(^|\/)\.\.(\/|$)|^\//);
          } catch (error) {
            expect(KernelsError.isInstance(error), String(error)).toBe(true);
          }
      }),
      { numRuns: 500 },
    );
  });
});
