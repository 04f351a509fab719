import { readFileSync } from "node:fs";
import { join } from "node:path";
import { chromium, type Browser, type Page as Tab } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundle, CHROMIUM_FLAGS, findChromium, serve, type Site } from "./chromium.js";
import type { Page } from "./page.js";
import { executeOrThrow, publicFolders, repository, tool } from "./workspace.js";

const executablePath = findChromium();
const reason = "no Chromium here: install Debian's `chromium`, or name one by CHROMIUM_PATH";

/** Golden files for the browser: one or two of each area, or all of them with GOLDEN_IN_BROWSER=all (minutes). */
const GOLDEN: Readonly<Record<string, readonly string[]>> = {
  positional: ["rope.", "alibi.", "shaw_relative."],
  norm: ["rmsnorm.", "fused_add_norm."],
  attention: ["gqa."],
  ffn: ["glu_ffn.", "activation."],
  moe: ["mixtral_moe.", "router_z_loss."],
};
const ALL = process.env["GOLDEN_IN_BROWSER"] === "all";

beforeAll(async () => {
  await executeOrThrow(tool("tsc"), ["-b", ...publicFolders(), "tooling/conformance"], { cwd: repository });
  await executeOrThrow(process.execPath, ["tooling/release/bundle.mjs", ...publicFolders()], {
    cwd: repository,
  });
}, 180_000);

describe("what a browser downloads", () => {
  it("holds navigator.gpu and no trace of Dawn or Node", async () => {
    const { code, files } = await bundle("consumer/exercise.ts");
    expect(code).toContain("navigator?.gpu");
    expect(files.filter((file) => file.includes("gpu.browser"))).toHaveLength(1);
    expect(files.filter((file) => /gpu\.node|node_modules\/webgpu/.test(file))).toEqual([]);
    expect(code).not.toMatch(/["']webgpu["']|["']node:|\brequire\(/);
  });
});

/** The first HTML block of the root README, which is a whole page; its path to the packages is the server's. */
function staticPage(): string {
  const text = readFileSync(join(repository, "README.md"), "utf8");
  const page = /```html\n([\s\S]*?)```/.exec(text)?.[1];
  if (page === undefined) throw new Error("README.md has no page");
  return page;
}

describe("headless Chromium", () => {
  let browser: Browser | undefined;
  let site: Site | undefined;
  let tab: Tab;

  beforeAll(async () => {
    if (executablePath === undefined) return;
    const { code } = await bundle("browser/page.ts", "browser/files.js");
    site = await serve(code, join(repository, "tooling/fixtures/golden"), staticPage());
    browser = await chromium.launch({ executablePath, headless: true, args: [...CHROMIUM_FLAGS] });
    tab = await browser.newPage();
    tab.on("pageerror", (error) => {
      console.error(error);
    });
    await tab.goto(site.url);
    await tab.waitForFunction(() => "page" in globalThis);
  }, 60_000);

  afterAll(async () => {
    await browser?.close();
    await site?.close();
  });

  it("opens a device through navigator.gpu", async ({ skip }) => {
    if (!browser) skip(reason);
    const found = await tab.evaluate(() => (globalThis as unknown as { page: Page }).page.describe());
    console.log(`adapter in Chromium: ${JSON.stringify(found)}`);
    expect(found.name).not.toBe("");
  });

  it("runs the README's page without a bundler: one file for each entry, one that two entries share, and errors with their names", async ({
    skip,
  }) => {
    if (!browser || !site) return skip(reason);
    const page = await browser.newPage();
    const [said, loaded, failed]: [string[], string[], string[]] = [[], [], []];
    page.on("console", (message) => said.push(message.text()));
    page.on("pageerror", (error) => failed.push(String(error)));
    page.on("request", (request) => loaded.push(new URL(request.url()).pathname));
    await page.goto(`${site.url}static`);
    await page.waitForFunction(() => document.body.textContent.includes("0.8505"), undefined, {
      timeout: 60_000,
    });
    const text = await page.evaluate(() => document.body.textContent);
    expect(text.trim()).toMatch(/^0\.8505, 0\.8279, 0\.0442$/);
    expect([failed, said.filter((line) => /error/i.test(line))]).toEqual([[], []]);
    const files = loaded.filter((path) => path.endsWith(".js"));
    expect(files).toContain("/node_modules/@x/attention/dist/browser/index.js");
    // An entry for each of the two packages, and the chunks that it shares with the package's other entries.
    expect(files.length).toBeLessThanOrEqual(5);
    // Text, since Vitest rewrites the imports of functions.
    const names = await page.evaluate(`import("@x/kernels").then(async ({ openDevice, ShapeError }) => {
      const gpu = await openDevice();
      try {
        gpu.tensor([1, 2], [3]);
        return [];
      } catch (error) {
        return [error.name, String(error instanceof ShapeError), String(error)];
      } finally {
        gpu.destroy();
      }
    })`);
    expect(names).toEqual(["ShapeError", "true", expect.stringMatching(/^ShapeError: /)]);
    await page.close();
  }, 120_000);

  for (const subgroups of [true, false]) {
    const how = subgroups ? "as the adapter is" : "without subgroups";

    it(`a component of every package agrees with float64, ${how}`, async ({ skip }) => {
      if (!browser) skip(reason);
      const errors = await tab.evaluate(
        (features) => (globalThis as unknown as { page: Page }).page.exercise(features),
        { subgroups },
      );
      expect(Object.keys(errors)).toHaveLength(publicFolders().length);
      for (const [name, error] of Object.entries(errors)) expect(error, name).toBeLessThan(2e-5);
    }, 180_000);

    // Without subgroups, only the areas whose kernels use them; GOLDEN_IN_BROWSER=all runs all of both.
    const areas = Object.entries(GOLDEN).filter(
      ([area]) => subgroups || ALL || ["norm", "attention"].includes(area),
    );
    for (const [area, files] of areas)
      it(`golden cases of ${area} pass, forward and backward, ${how}`, async ({ skip }) => {
        if (!browser) skip(reason);
        for (const file of ALL ? [""] : files) {
          const reports = await tab.evaluate(
            ([features, filter]) => (globalThis as unknown as { page: Page }).page.golden(features, filter),
            [{ subgroups }, `/${area}/${file}`] as const,
          );
          expect(reports.length).toBeGreaterThan(0);
          expect(reports.filter((report) => !report.passed)).toEqual([]);
        }
      }, 600_000);
  }
});
