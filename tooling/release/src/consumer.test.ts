import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { examples, outputFaults } from "@x/testing/examples";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { dependency, linkPackage, nestCopy, npmInstall, packAll, repack } from "./pack.js";
import { execute, executeOrThrow, publicFolders, readManifest, repository } from "./workspace.js";

const temporary = mkdtempSync(join(tmpdir(), "x-consumer-"));
const application = join(temporary, "application");
const compilers = {
  "TypeScript 6": "typescript",
  "TypeScript 5.9 with @webgpu/types": "typescript-5",
  "TypeScript 7": "typescript-7",
};
let tarballs: Record<string, string> = {};

/** README blocks and the program below, as files of the application. */
const sources: string[] = [];

beforeAll(async () => {
  tarballs = await packAll(join(temporary, "tarballs"));
  const libraries = ["@huggingface/tokenizers", "oniguruma-parser", "oniguruma-to-es"];
  const installed = await npmInstall(application, {
    ...tarballs,
    ...Object.fromEntries(libraries.map((name) => [name, dependency("packages/tokenizer", name)])),
  });
  if (installed.code !== 0) throw new Error(`npm install failed:\n${installed.stderr}`);
  linkPackage(application, "webgpu", dependency("tooling/release", "webgpu"));
  linkPackage(application, "@webgpu/types", dependency("tooling/release", "@webgpu/types"));
  mkdirSync(join(application, "src"));
  for (const path of ["README.md", ...publicFolders().map((folder) => `${folder}/README.md`)]) {
    for (const [i, block] of examples(join(repository, path)).entries()) {
      const name = `${path.replace(/\W+/g, "_")}_${i}`;
      writeFileSync(join(application, "src", `${name}.ts`), block);
      sources.push(name);
    }
  }
  for (const name of ["exercise.ts", "every_package.ts"])
    copyFileSync(join(repository, "tooling/release/consumer", name), join(application, "src", name));
  sources.push("every_package");
}, 180_000);

afterAll(() => {
  rmSync(temporary, { recursive: true, force: true });
});

function compile(compiler: string, out: string): Promise<string> {
  const options = {
    compilerOptions: {
      strict: true,
      module: "NodeNext",
      target: "ES2022",
      lib: ["ES2023", "DOM", "ESNext.Disposable"],
      types: compiler === "typescript-5" ? ["@webgpu/types"] : [],
      rootDir: "src",
      outDir: out,
      // Our declarations are checked too.
      skipLibCheck: false,
    },
    include: ["src"],
  };
  const file = join(application, `tsconfig.${compiler}.json`);
  writeFileSync(file, JSON.stringify(options, null, 2));
  const tsc = join(dependency("tooling/release", compiler), "bin/tsc");
  return executeOrThrow(process.execPath, [tsc, "-p", file], { cwd: application });
}

describe("an application outside the workspace, from the packed tarballs", () => {
  it("has one copy of kernels, and every package", () => {
    expect(readdirSync(join(application, "node_modules/@x")).sort()).toEqual(
      Object.keys(tarballs)
        .map((name) => basename(name))
        .sort(),
    );
    for (const name of Object.keys(tarballs)) {
      const manifest = readManifest(join(application, "node_modules", name));
      for (const range of Object.values({ ...manifest.dependencies, ...manifest.peerDependencies }))
        expect(range, name).not.toMatch(/workspace|catalog/);
    }
  });

  it("every tarball holds its licence, README, changelog and builds, and no tests or references", () => {
    for (const name of Object.keys(tarballs)) {
      const files = readdirSync(join(application, "node_modules", name), { recursive: true }) as string[];
      expect(files, name).toEqual(
        expect.arrayContaining(["LICENSE", "README.md", "CHANGELOG.md", "dist/index.js"]),
      );
      expect(
        files.filter((file) => /\.(test|reference|bench)\.|test-support|tsbuildinfo/.test(file)),
      ).toEqual([]);
    }
  });

  for (const [name, compiler] of Object.entries(compilers))
    it(`${name} compiles a program that uses each package, and the READMEs' examples`, async () => {
      await compile(compiler, `out-${compiler}`);
    }, 120_000);

  it("the program runs", async () => {
    const file = join(application, "out-typescript/every_package.js");
    const result = JSON.parse(await executeOrThrow(process.execPath, [file], { cwd: application })) as object;
    expect(Object.keys(result).sort()).toEqual(Object.keys(tarballs).sort());
  }, 180_000);

  it("every README's example prints what it says", async () => {
    for (const name of sources.filter((source) => source !== "every_package")) {
      const file = join(application, "out-typescript", `${name}.js`);
      const output = await executeOrThrow(process.execPath, [file], { cwd: application });
      expect(
        outputFaults(readFileSync(join(application, "src", `${name}.ts`), "utf8"), output),
        name,
      ).toEqual([]);
    }
  }, 600_000);

  it("require() takes every package", async () => {
    const code = `for (const name of ${JSON.stringify(Object.keys(tarballs))}) console.log(name, Object.keys(require(name)).length)`;
    writeFileSync(join(application, "require.cjs"), code);
    const lines = (await executeOrThrow(process.execPath, ["require.cjs"], { cwd: application }))
      .trim()
      .split("\n");
    for (const line of lines) expect(line).toMatch(/ [1-9]\d*$/);
  });

  it("importing a package changes nothing: no global appears, nothing keeps the process running", async () => {
    const code = `
const before = new Set(Reflect.ownKeys(globalThis));
for (const name of ${JSON.stringify(Object.keys(tarballs))}) await import(name);
console.log(JSON.stringify(Reflect.ownKeys(globalThis).filter((key) => !before.has(key)).map(String)));`;
    writeFileSync(join(application, "import.mjs"), code);
    expect(
      await executeOrThrow(process.execPath, ["import.mjs"], { cwd: application, timeout: 20_000 }),
    ).toBe("[]\n");
  });

  it("without Dawn, opening a device says what to install", async () => {
    const bare = join(temporary, "bare");
    expect((await npmInstall(bare, { "@x/kernels": tarballs["@x/kernels"]! })).code).toBe(0);
    const code = `import("@x/kernels").then((k) => k.openDevice()).catch((e) => console.log(e.code, e.message))`;
    const out = await executeOrThrow(process.execPath, ["-e", code], { cwd: bare });
    expect(out).toMatch(/^ADAPTER_NOT_FOUND .*npm install webgpu/);
  });
});

describe("a wrong pairing of kernels", () => {
  it("is refused by npm", async () => {
    const next = await repack(tarballs["@x/kernels"]!, "2.0.0", join(temporary, "next"));
    const { code, stderr } = await npmInstall(join(temporary, "paired"), {
      "@x/kernels": next,
      "@x/norm": tarballs["@x/norm"]!,
    });
    expect(code).not.toBe(0);
    expect(stderr).toContain("ERESOLVE");
    expect(stderr).toContain("@x/kernels@2.0.0");
  }, 120_000);

  it("is refused at run time, by both versions' names, where a copy is nested all the same", async () => {
    nestCopy(application, "@x/kernels", "@x/norm", "0.9.0");
    const { version } = readManifest(join(repository, "packages/kernels"));
    const code = `
import { DuplicatePackageError, openDevice, valueAndGrad } from "@x/kernels";
import { rmsNorm } from "@x/norm";
const gpu = await openDevice();
const x = gpu.tensor([1, 2, 3, 4], [1, 4]);
for (const use of [() => rmsNorm(x, { weight: gpu.full([4], 1) }), () => valueAndGrad(() => rmsNorm(x, { weight: gpu.full([4], 1) }), { x })])
  try {
    use();
    console.log("not refused");
  } catch (error) {
    console.log(DuplicatePackageError.isInstance(error), error.message);
  }
gpu.destroy();`;
    writeFileSync(join(application, "duplicate.mjs"), code);
    const {
      code: status,
      stdout,
      stderr,
    } = await execute(process.execPath, ["duplicate.mjs"], { cwd: application });
    expect(status, stderr).toBe(0);
    const lines = stdout.trim().split("\n");
    expect(lines).toHaveLength(2);
    for (const line of lines) expect(line).toMatch(`true @x/kernels: two copies are loaded: ${version} `);
    for (const line of lines) expect(line).toContain("0.9.0 ");
  }, 120_000);
});
