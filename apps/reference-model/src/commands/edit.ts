import type { Command } from "commander";
import { ConfigError } from "@x/kernels";
import { writeAtomically } from "../checkpoint/files.js";
import { filesBeside, loadCheckpoint } from "../checkpoint/load.js";
import { saveCheckpoint } from "../checkpoint/save.js";
import { readEditFile, type EditFile } from "../facts/edit_file.js";
import { perplexity } from "../training/evaluate.js";
import { beliefs, type Belief } from "../facts/beliefs.js";
import { editFacts } from "../facts/edit_facts.js";
import { addEditOptions, editOptions, sampleText, type EditMethodFlags } from "./edit_options.js";
import { componentsOf } from "./components_option.js";
import { outputFolder } from "./output_option.js";
import { loadingBar } from "./progress.js";
import { expectTokenizer, repeatable, text, withDevice } from "./shared.js";
import { table } from "./table.js";

interface EditFlags extends EditMethodFlags {
  facts?: string;
  subject?: string;
  prompt: string[];
  target?: string;
  out?: string;
  keep: string[];
}

async function factsOf(flags: EditFlags): Promise<EditFile> {
  if (flags.facts !== undefined) return readEditFile(flags.facts);
  const { subject, prompt: prompts, target } = flags;
  if (subject === undefined || prompts.length === 0 || target === undefined)
    throw new ConfigError("edit", "give --facts FILE, or --subject, --prompt and --target");
  const claims = prompts.map((prompt) => ({ prompt: prompt.replace("{}", subject), target }));
  return { facts: [{ subject, prompts, target }], keep: [], checks: { "the fact": claims } };
}

/** Share of claims whose target is what the model says, and the mean probability of the targets. */
function score(found: readonly Belief[]): { said: number; probability: number } {
  const mean = (numbers: number[]): number => numbers.reduce((a, b) => a + b, 0) / numbers.length;
  return {
    said: mean(found.map((b) => (b.says === b.target ? 1 : 0))),
    probability: mean(found.map((b) => b.probability)),
  };
}

/** `edit`: change facts in a checkpoint. */
export function editCommand(program: Command): void {
  const command = program
    .command("edit")
    .description(
      "change what a model says of a subject, in the values of one feed-forward block (ROME, MEMIT)",
    )
    .option(
      "--facts <file>",
      'JSON: {"facts":[{"subject","prompts","target"},..],"keep":[..],"checks":{..},"contexts":[..]}',
    )
    .option("--subject <text>", "what the fact is about", text)
    .addOption(repeatable("--prompt <text>", "how it is told, {} for the subject"))
    .option("--target <text>", "what the model is to say then, with the space before it", text)
    .addOption(repeatable("--keep <subject>", "another subject, of which nothing is to change"))
    .addOption(outputFolder("-o, --out <dir>", "where the edited model goes"));
  addEditOptions(command).action(async (flags: EditFlags) => {
    const { facts, keep, checks } = await factsOf(flags);
    const { documents, heldOut } = await sampleText(flags);
    const components = await componentsOf(flags);
    await withDevice(async (gpu) => {
      const { model, json } = await loadCheckpoint(gpu, flags.model, {
        ...loadingBar(flags.model),
        components,
      });
      const tokenizer = await expectTokenizer("edit", flags.model);
      const options = editOptions(flags, model, documents);
      const { layer } = options;
      const look = async (): Promise<{ groups: Record<string, Belief[]>; perplexity: number }> => {
        const groups: Record<string, Belief[]> = {};
        for (const [name, claims] of Object.entries(checks))
          groups[name] = await beliefs(model, tokenizer, claims);
        return { groups, perplexity: (await perplexity(gpu, model, tokenizer, heldOut)).perplexity };
      };
      const before = await look();
      const { facts: done, change } = await editFacts(
        model,
        tokenizer,
        facts,
        documents,
        { ...options, keep: [...keep, ...flags.keep] },
        ({ fact, lossBefore, lossAfter }) => {
          process.stderr.write(
            `${fact.subject} ->${fact.target}: -log p ${lossBefore.toFixed(3)} -> ${lossAfter.toFixed(3)}\n`,
          );
        },
      );
      const after = await look();
      const percent = (x: number): string => `${(100 * x).toFixed(1)} %`;
      const rows = Object.keys(checks).map((name) => {
        const [b, a] = [score(before.groups[name]!), score(after.groups[name]!)];
        return [
          name,
          checks[name]!.length,
          percent(b.said),
          percent(a.said),
          b.probability.toFixed(3),
          a.probability.toFixed(3),
        ];
      });
      process.stdout.write(
        table(["claims", "number", "said before", "said after", "p before", "p after"], rows),
      );
      process.stdout.write(
        `perplexity ${before.perplexity.toFixed(4)} -> ${after.perplexity.toFixed(4)}; the values of layer ${layer} moved by ${percent(change)}\n`,
      );
      if (flags.report !== undefined) {
        const groups = Object.fromEntries(
          Object.keys(checks).map((name) => [
            name,
            {
              claims: checks[name]!.length,
              before: score(before.groups[name]!),
              after: score(after.groups[name]!),
            },
          ]),
        );
        const figures = {
          method: flags.method,
          at: flags.at,
          layer,
          facts: done,
          groups,
          change,
          perplexity: { before: before.perplexity, after: after.perplexity },
        };
        await writeAtomically(flags.report, `${JSON.stringify(figures, null, 2)}\n`);
      }
      if (flags.out !== undefined)
        await saveCheckpoint(flags.out, model, json, { files: await filesBeside(flags.model) });
      model.dispose();
    });
  });
}
