import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Option, type Command } from "commander";
import { ConfigError } from "@x/kernels";
import { loadCheckpoint, loadFolderTokenizer, saveCheckpoint, writeAtomically } from "../checkpoint.js";
import { readDocuments } from "../data.js";
import { readEditFile, type EditFile } from "../edit_file.js";
import { perplexity } from "../evaluate.js";
import { beliefs, editFacts, type Belief } from "../fact_edit.js";
import { sentencesOf, writeStory } from "../stories.js";
import { BUNDLED, collect, integer, modelOption, number, withDevice } from "./shared.js";
import { table } from "./table.js";

interface EditFlags {
  model: string;
  facts?: string;
  subject?: string;
  prompt: string[];
  target?: string;
  out?: string;
  layer?: number;
  at: "subject" | "last";
  method: "rome" | "memit";
  lambda?: number;
  ridge: number;
  steps: number;
  enough: number;
  clamp: number;
  keep: string[];
  keepWeight: number;
  contexts: number;
  text?: string;
  json?: string;
}

/** Seeds of the generator's stories that sample text and evaluation take: not those of the training text. */
const SAMPLE_SEED = 2_000_000;

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
  program
    .command("edit")
    .description(
      "change what a model says of a subject, in the values of one feed-forward block (ROME, MEMIT)",
    )
    .addOption(modelOption())
    .option(
      "--facts <file>",
      'JSON: {"facts":[{"subject","prompts","target"},..],"keep":[..],"checks":{..},"contexts":[..]}',
    )
    .option("--subject <text>", "what the fact is about")
    .option("--prompt <text>", "how it is told, {} for the subject (may be given again)", collect, [])
    .option("--target <text>", "what the model is to say then, with the space before it")
    .option("-o, --out <dir>", "where the edited model goes")
    .option("--layer <n>", "layer whose block is changed (default: the last but one)", integer)
    .addOption(
      new Option("--at <token>", "where the fact is: at the subject's last token, or at the one that says it")
        .choices(["subject", "last"])
        .default("last"),
    )
    .addOption(
      new Option("--method <name>", "one fact after another by its mean key, or every prompt of all at once")
        .choices(["rome", "memit"])
        .default("rome"),
    )
    .option("--lambda <x>", "memit: weight of what is to stay (default: every fact is met exactly)", number)
    .option("--ridge <x>", "added to the covariance's diagonal, in parts of its mean", number, 0.01)
    .option("--steps <n>", "steps of the search for the value", integer, 60)
    .option("--enough <x>", "-log p of the target that ends the search", number, 0.005)
    .option("--clamp <x>", "longest change of the output, in lengths of the output", number, 4)
    .option(
      "--keep <subject>",
      "another subject, of which nothing is to change (may be given again)",
      collect,
      [],
    )
    .option("--keep-weight <x>", "weight of the keys of such subjects, where the text has 1", number, 10)
    .option("--contexts <n>", "beginnings of sample texts that come before the prompts", integer, 12)
    .option("--text <path>", "sample text of the model's kind (default: the generator's stories)")
    .option("--json <file>", "also write the figures as JSON")
    .action(async (flags: EditFlags) => {
      const { facts, keep, checks } = await factsOf(flags);
      if (flags.text === undefined && flags.model !== BUNDLED)
        process.stderr.write("no --text: the usual keys are taken from the generator's stories\n");
      const documents =
        flags.text === undefined
          ? Array.from({ length: 200 }, (_, i) => writeStory(SAMPLE_SEED + i))
          : await readDocuments(flags.text);
      await withDevice(async (gpu) => {
        const { model, json } = await loadCheckpoint(gpu, flags.model);
        const tokenizer = await loadFolderTokenizer(flags.model);
        if (!tokenizer) throw new ConfigError("edit", `${flags.model} has no tokenizer`);
        const layer = flags.layer ?? Math.max(0, model.layers.length - 2);
        const held = documents.slice(-Math.min(40, Math.ceil(documents.length / 4)));
        const look = async (): Promise<{ groups: Record<string, Belief[]>; perplexity: number }> => {
          const groups: Record<string, Belief[]> = {};
          for (const [name, claims] of Object.entries(checks))
            groups[name] = await beliefs(model, tokenizer, claims);
          return { groups, perplexity: (await perplexity(gpu, model, tokenizer, held, 128)).perplexity };
        };
        const before = await look();
        const contexts = documents
          .slice(0, flags.contexts)
          .map((text) => `${sentencesOf(text).slice(0, 2).join(" ")} `);
        const { facts: done, change } = await editFacts(
          model,
          tokenizer,
          facts,
          documents,
          {
            layer,
            at: flags.at,
            method: flags.method,
            lambda: flags.lambda,
            ridge: flags.ridge,
            steps: flags.steps,
            enough: flags.enough,
            clamp: flags.clamp,
            keep: [...keep, ...flags.keep],
            keepWeight: flags.keepWeight,
            contexts: ["", ...contexts],
          },
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
        if (flags.json !== undefined) {
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
          await writeAtomically(flags.json, `${JSON.stringify(figures, null, 2)}\n`);
        }
        if (flags.out !== undefined) {
          const names = ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"];
          const files = await Promise.all(
            names.map(
              async (name) =>
                [name, await readFile(join(flags.model, name), "utf8").catch(() => undefined)] as const,
            ),
          );
          const there = files.filter((f): f is [string, string] => f[1] !== undefined);
          await saveCheckpoint(flags.out, model, json, Object.fromEntries(there));
        }
        model.dispose();
      });
    });
}
