import type { Command } from "commander";
import { writeAtomically } from "../checkpoint/files.js";
import { loadCheckpoint } from "../checkpoint/load.js";
import { readDocuments } from "../corpus/documents.js";
import { expertReport, expertTable } from "../experts/report.js";
import { expertSvg } from "../experts/picture.js";
import { writeStory } from "../corpus/stories.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { outputFile } from "./output_option.js";
import { loadingBar } from "./progress.js";
import { expectTokenizer, integerIn, modelOption, withDevice } from "./shared.js";

interface ExpertsFlags extends ComponentsFlag {
  model: string;
  data?: string;
  stories: number;
  top: number;
  svg?: string;
  out?: string;
  json?: true;
}

/** `experts`: what the experts of a mixture specialise in. */
export function expertsCommand(program: Command): void {
  program
    .command("experts")
    .description(
      "what the experts of a model specialise in: load and entropy of each layer, and the classes of tokens (names, verbs, punctuation, ..) that each expert takes",
    )
    .addOption(modelOption())
    .addOption(componentsOption())
    .option("-d, --data <path>", "UTF-8 text file or folder (default: unseen stories)")
    .option("-n, --stories <n>", "stories to read where no text is given", integerIn(1), 60)
    .option("--top <n>", "classes to name for an expert", integerIn(1), 4)
    .addOption(outputFile("--svg <file>", "also draw the table"))
    .addOption(outputFile("--out <file>", "also write the figures as JSON"))
    .option("--json", "print the figures as JSON instead of the table")
    .action(async (flags: ExpertsFlags) => {
      const components = await componentsOf(flags);
      await withDevice(async (gpu) => {
        const { model } = await loadCheckpoint(gpu, flags.model, { ...loadingBar(flags.model), components });
        const tokenizer = await expectTokenizer("experts", flags.model);
        const documents =
          flags.data === undefined
            ? Array.from({ length: flags.stories }, (_, i) => writeStory(2_000_000 + i))
            : await readDocuments(flags.data);
        const report = await expertReport(gpu, model, tokenizer, documents);
        process.stdout.write(flags.json ? `${JSON.stringify(report)}\n` : expertTable(report, flags.top));
        if (flags.svg !== undefined) await writeAtomically(flags.svg, expertSvg(report));
        if (flags.out !== undefined) await writeAtomically(flags.out, `${JSON.stringify(report, null, 1)}\n`);
        model.dispose();
      });
    });
}
