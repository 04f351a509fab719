import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Safetensors } from "@x/kernels/safetensors";
import { repository, sharedFolder, useGpu } from "@x/testing";
import { loadModel } from "../checkpoint/load.js";
import { exists } from "../checkpoint/files.js";
import { saveCheckpoint } from "../checkpoint/save.js";
import { ENCODER_DECODERS, FAMILIES } from "./index.js";
import { checkExpected } from "../test-support.js";

const fixtures = `${repository}tooling/fixtures/models`;
/** Every folder of the fixtures, and those of the published cases that are too large for them. */
const FOLDERS = [...(await readdir(fixtures)), "llama-tied"];

/** A folder of the fixtures, or of the published cases beside the repository. */
async function folderOf(name: string): Promise<string | undefined> {
  const own = `${fixtures}/${name}`;
  return (await exists(own)) ? own : sharedFolder(`models/${name}`);
}

describe("a folder of each public family", () => {
  const device = useGpu();

  it.for(FOLDERS)("%s: logits within 5e-4, loss within 1e-4, greedy ids equal", async (name, { skip }) => {
    const folder = await folderOf(name);
    if (folder === undefined) skip(`shared/models/${name} is not beside the repository`);
    await checkExpected(device.gpu, folder!);
  });

  it.for(["gpt2", "falcon-new", "gpt_neox", "phi3", "mixtral", "mamba2", "t5", "t5-v1_1"])(
    "%s: a folder that is written has the names, shapes and numbers of the one that was read",
    async (name, { skip }) => {
      const folder = await folderOf(name);
      if (folder === undefined) skip(`shared/models/${name} is not beside the repository`);
      const out = await mkdtemp(join(tmpdir(), "x-family-"));
      try {
        const { model, json } = await loadModel(device.gpu, folder!);
        await saveCheckpoint(out, model, json);
        model.dispose();
        const [given, written] = await Promise.all(
          [folder!, out].map(async (at) =>
            Safetensors.parse(at, await readFile(join(at, "model.safetensors"))),
          ),
        );
        const names = given!.names.filter(
          (one) => !/\.attn\.bias$|attention\.(bias|masked_bias|rotary_emb)/.test(one),
        );
        const withPrefix = (one: string): string =>
          written!.names.includes(one) ? one : `transformer.${one}`;
        expect(names.map(withPrefix).sort()).toEqual([...written!.names].sort());
        for (const one of names) {
          expect(written!.entry(withPrefix(one)).shape).toEqual(given!.entry(one).shape);
          expect(await written!.numbers(withPrefix(one))).toEqual(await given!.numbers(one));
        }
      } finally {
        await rm(out, { recursive: true });
      }
    },
  );

  it("is in the README's table, with its title and its file", async () => {
    const readme = await readFile(`${repository}apps/reference-model/README.md`, "utf8");
    const rows = [...readme.matchAll(/^\| `(\w+)` +\| (.+?) +\| \[.+?\]\(src\/families\//gm)];
    expect(rows.map(([, type, title]) => [type, title])).toEqual(
      Object.entries({ ...FAMILIES, ...ENCODER_DECODERS })
        .map(([type, { title }]) => [type, title])
        .sort(([a], [b]) => (a! < b! ? -1 : 1)),
    );
  });
});
