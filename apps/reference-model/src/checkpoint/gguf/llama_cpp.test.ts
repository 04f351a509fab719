import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, it } from "vitest";
import { sharedFolder } from "@x/testing";
import type { Expected } from "../../test-support.js";
import { modelSource } from "../source.js";
import { writeGguf } from "./to_gguf.js";

/** What is used of node-llama-cpp. */
interface LlamaCpp {
  getLlama(options: object): Promise<{
    loadModel(options: { modelPath: string }): Promise<{
      createContext(options: object): Promise<{
        getSequence(): { evaluate(ids: number[], options: object): AsyncIterable<number>; dispose(): void };
      }>;
      dispose(): Promise<void>;
    }>;
  }>;
}

/** A folder into which node-llama-cpp was installed. */
const installed = process.env["LLAMA_CPP_PATH"];

describe("llama.cpp continues models from files that were written here as their folders do", () => {
  // Left out is what llama.cpp does not read, as `convert --gguf` warns: the window of mistral, the scale of gemma2's and
  // gemma3_text's scores, and dense layers of qwen3_moe; phi3 with texts that take the short factors.
  for (const name of ["llama", "llama3-rope", "mixtral", "qwen2", "phi3", "gpt2", "mamba", "stories260K"])
    it(`${name}: 16 greedy ids, f32 and f16`, async ({ skip }) => {
      const folder = sharedFolder(`models/${name}`);
      if (folder === undefined) skip(`shared/models/${name} is not beside the repository`);
      if (installed === undefined)
        skip("LLAMA_CPP_PATH names no folder into which node-llama-cpp was installed");
      const entry = pathToFileURL(join(installed!, "node_modules/node-llama-cpp/dist/index.js")).href;
      const api = (await import(entry)) as LlamaCpp;
      const llama = await api.getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: 1 });
      const { cases } = JSON.parse(readFileSync(join(folder!, "expected.json"), "utf8")) as Expected;
      const out = mkdtempSync(join(tmpdir(), "x-llama-cpp-"));
      try {
        for (const type of ["f32", "f16"] as const) {
          const modelPath = join(out, `${type}.gguf`);
          await writeGguf(modelPath, await modelSource(folder!), type);
          const model = await llama.loadModel({ modelPath });
          const context = await model.createContext({ contextSize: 128 });
          const long = cases.filter(({ input_ids: ids }) => name !== "phi3" || ids.length > 32);
          for (const { input_ids, greedy } of long.slice(0, 3)) {
            const sequence = context.getSequence();
            const ids: number[] = [];
            for await (const id of sequence.evaluate(input_ids, { temperature: 0, yieldEogToken: true }))
              if (ids.push(id) === 16) break;
            expect(ids).toEqual(greedy.slice(0, 16));
            sequence.dispose();
          }
          await model.dispose();
        }
      } finally {
        rmSync(out, { recursive: true });
      }
    });
});
