import type { Command } from "commander";
import { loadCheckpoint } from "../checkpoint.js";
import { readDocuments } from "../data.js";
import { perplexity } from "../evaluate.js";
import { expectTokenizer, extension, integer, modelOption, ropeOption, withDevice } from "./shared.js";

/** `perplexity`: of a text. */
export function perplexityCommand(program: Command): void {
  program
    .command("perplexity")
    .description("perplexity of a text")
    .addOption(modelOption())
    .requiredOption("-d, --data <path>", "UTF-8 text file or folder")
    .option("--seq-len <n>", "window", integer, 128)
    .addOption(ropeOption())
    .action(async (flags: { model: string; data: string; seqLen: number; ropeScaling?: string }) => {
      await withDevice(async (gpu) => {
        const { model } = await loadCheckpoint(gpu, flags.model, extension(flags.ropeScaling));
        const tokenizer = await expectTokenizer("perplexity", flags.model);
        const result = await perplexity(gpu, model, tokenizer, await readDocuments(flags.data), flags.seqLen);
        process.stdout.write(
          `perplexity ${result.perplexity.toFixed(4)} (loss ${result.loss.toFixed(5)} over ${result.tokens} tokens)\n`,
        );
        model.dispose();
      });
    });
}
