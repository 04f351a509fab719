import type { Command } from "commander";
import { loadCheckpoint } from "../checkpoint/load.js";
import { checkLength, CONTEXT_RULE, defaultWindow, WINDOW } from "../model/context.js";
import { readDocuments } from "../corpus/documents.js";
import { perplexity } from "../training/evaluate.js";
import { adapterOption, adaptersOf, type AdapterFlag } from "./adapter_option.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { loadingBar } from "./progress.js";
import { expectTokenizer, extension, integerIn, modelOption, ropeOption, withDevice } from "./shared.js";

interface PerplexityFlags extends ComponentsFlag, AdapterFlag {
  model: string;
  data: string;
  seqLen?: number;
  json?: true;
  ropeScaling?: string;
}

/** `perplexity`: of a text. */
export function perplexityCommand(program: Command): void {
  program
    .command("perplexity")
    .description("perplexity of a text")
    .addOption(modelOption())
    .addOption(adapterOption())
    .addOption(componentsOption())
    .requiredOption("-d, --data <path>", "UTF-8 text file or folder")
    .option("--seq-len <n>", `window (default: ${WINDOW}, within the context)`, integerIn(1))
    .option("--json", "print one line of JSON: {perplexity, loss, tokens}")
    .addOption(ropeOption())
    .addHelpText("after", `\n${CONTEXT_RULE}`)
    .action(async (flags: PerplexityFlags) => {
      const documents = await readDocuments(flags.data);
      const components = await componentsOf(flags);
      const adapters = await adaptersOf(flags.adapter);
      await withDevice(async (gpu) => {
        const { model } = await loadCheckpoint(gpu, flags.model, {
          ...loadingBar(flags.model),
          change: extension(flags.ropeScaling),
          components,
          adapters,
          stored: true,
        });
        const tokenizer = await expectTokenizer("perplexity", flags.model);
        const seqLen = flags.seqLen ?? defaultWindow(model);
        const warning = checkLength("perplexity: --seq-len", model, seqLen);
        if (warning) process.stderr.write(`warning: --seq-len: ${warning}\n`);
        const result = await perplexity(gpu, model, tokenizer, documents, seqLen);
        process.stdout.write(
          flags.json
            ? `${JSON.stringify(result)}\n`
            : `perplexity ${result.perplexity.toFixed(4)} (loss ${result.loss.toFixed(5)} over ${result.tokens} tokens)\n`,
        );
        model.dispose();
      });
    });
}
