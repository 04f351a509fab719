import type { Command } from "commander";
import { writeAtomically } from "../checkpoint/files.js";
import { loadCheckpoint } from "../checkpoint/load.js";
import { DOCUMENT_BREAK } from "../corpus/data.js";
import { readDocuments } from "../corpus/documents.js";
import { evaluateStories, perplexity } from "../training/evaluate.js";
import { writeStory } from "../corpus/stories.js";
import { componentsOf, componentsOption } from "./components_option.js";
import { outputFile } from "./output_option.js";
import { loadingBar } from "./progress.js";
import { expectTokenizer, integerIn, modelOption, numberIn, withDevice } from "./shared.js";

/** `stories`: write the repository's own text; `evaluate-stories`: judge a model that was trained on it. */
export function storiesCommands(program: Command): void {
  program
    .command("stories")
    .description("write stories of the repository's own grammar to a text file")
    .addOption(
      outputFile("-o, --out <file>", "text file, stories separated by empty lines").makeOptionMandatory(),
    )
    .option("-n, --count <n>", "number of stories", integerIn(1), 12_000)
    .option("--first <n>", "seed of the first story", integerIn(0), 0)
    .option("--json", "print one line of JSON: {out, stories, distinct}")
    .action(async (flags: { out: string; count: number; first: number; json?: true }) => {
      const stories = Array.from({ length: flags.count }, (_, i) => writeStory(flags.first + i));
      await writeAtomically(flags.out, `${stories.join(DOCUMENT_BREAK)}\n`);
      const distinct = new Set(stories).size;
      process.stderr.write(`${flags.count} stories, ${distinct} of them distinct\n`);
      if (flags.json)
        process.stdout.write(`${JSON.stringify({ out: flags.out, stories: flags.count, distinct })}\n`);
    });

  program
    .command("evaluate-stories")
    .description(
      "judge a story model: perplexity on unseen stories, sentences that the grammar accepts, stories that are new",
    )
    .addOption(modelOption())
    .requiredOption("--training <file>", "the text it was trained on")
    .option("-n, --count <n>", "stories to sample", integerIn(1), 100)
    .option("--first-unseen <n>", "seed of the first story that was not trained on", integerIn(0), 1_000_000)
    .option("--temperature <x>", "divides the logits", numberIn(0), 0.8)
    .option("--top-p <x>", "keep the fewest tokens that hold this probability", numberIn(0, 1), 0.95)
    .addOption(componentsOption())
    .addOption(outputFile("--out <file>", "also write the result as JSON"))
    .action(
      async (flags: {
        model: string;
        training: string;
        count: number;
        firstUnseen: number;
        temperature: number;
        topP: number;
        out?: string;
        components?: string;
      }) => {
        const components = await componentsOf(flags);
        await withDevice(async (gpu) => {
          const { model } = await loadCheckpoint(gpu, flags.model, {
            ...loadingBar(flags.model),
            components,
          });
          const tokenizer = await expectTokenizer("evaluate-stories", flags.model);
          const training = new Set(await readDocuments(flags.training));
          const unseen = Array.from({ length: 500 }, (_, i) => writeStory(flags.firstUnseen + i)).filter(
            (s) => !training.has(s),
          );
          const text = await perplexity(gpu, model, tokenizer, unseen);
          const sampled = await evaluateStories(model, tokenizer, training, flags.count, {
            maxNewTokens: 400,
            temperature: flags.temperature,
            topP: flags.topP,
            seed: 1,
          });
          const result = {
            unseenStories: unseen.length,
            perplexity: text.perplexity,
            loss: text.loss,
            ...sampled,
          };
          process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
          if (flags.out !== undefined)
            await writeAtomically(flags.out, `${JSON.stringify(result, null, 2)}\n`);
          model.dispose();
        });
      },
    );
}
