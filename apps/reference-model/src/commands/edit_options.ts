import { Option, type Command } from "commander";
import { readDocuments } from "../corpus/documents.js";
import type { EditOptions } from "../facts/edit_facts.js";
import type { CausalLM } from "../model/model.js";
import { sentencesOf, writeStory } from "../corpus/stories.js";
import { componentsOption, type ComponentsFlag } from "./components_option.js";
import { outputFile } from "./output_option.js";
import { BUNDLED, integerIn, modelOption, numberIn } from "./shared.js";

/** How facts are edited, as options of a command. */
export interface EditMethodFlags extends ComponentsFlag {
  readonly model: string;
  readonly layer?: number;
  readonly at: "subject" | "last";
  readonly method: "rome" | "memit";
  readonly lambda?: number;
  readonly ridge: number;
  readonly steps: number;
  readonly enough: number;
  readonly clamp: number;
  readonly keepWeight: number;
  readonly contexts: number;
  readonly text?: string;
  readonly report?: string;
}

/** Seeds of the generator's stories that sample text and evaluation take: not those of the training text. */
const SAMPLE_SEED = 2_000_000;

export function addEditOptions(command: Command): Command {
  return command
    .addOption(modelOption())
    .addOption(componentsOption())
    .option("--layer <n>", "layer whose block is changed (default: the last)", integerIn(0))
    .addOption(
      new Option("--at <token>", "where the fact is: at the subject's last token, or at the one that says it")
        .choices(["subject", "last"])
        .default("last"),
    )
    .addOption(
      new Option("--method <name>", "one fact after another, or all at once")
        .choices(["rome", "memit"])
        .default("rome"),
    )
    .option(
      "--lambda <x>",
      "memit: weight of what is to stay (default: every fact is met exactly)",
      numberIn(0),
    )
    .option("--ridge <x>", "added to the covariance's diagonal, in parts of its mean", numberIn(0), 0.01)
    .option("--steps <n>", "steps of the search for the value", integerIn(1), 60)
    .option("--enough <x>", "-log p of the target that ends the search", numberIn(0), 0.005)
    .option(
      "--clamp <x>",
      "longest change of the output, in lengths of the output",
      numberIn(Number.MIN_VALUE),
      4,
    )
    .option("--keep-weight <x>", "weight of the keys of kept subjects, where the text has 1", numberIn(0), 10)
    .option("--contexts <n>", "beginnings of sample texts that come before the prompts", integerIn(0), 12)
    .option("--text <path>", "sample text of the model's kind (default: the generator's stories)")
    .addOption(outputFile("--report <file>", "also write the figures as JSON"));
}

/** Sample text, and the part of it that only judges. */
export async function sampleText(
  flags: EditMethodFlags,
): Promise<{ documents: readonly string[]; heldOut: readonly string[] }> {
  if (flags.text === undefined && flags.model !== BUNDLED)
    process.stderr.write("no --text: the usual keys are taken from the generator's stories\n");
  const documents =
    flags.text === undefined
      ? Array.from({ length: 200 }, (_, i) => writeStory(SAMPLE_SEED + i))
      : await readDocuments(flags.text);
  return { documents, heldOut: documents.slice(-Math.min(40, Math.ceil(documents.length / 4))) };
}

export function editOptions(
  flags: EditMethodFlags,
  model: CausalLM,
  documents: readonly string[],
): EditOptions {
  const { at, method, lambda, ridge, steps, enough, clamp, keepWeight } = flags;
  const beginnings = documents
    .slice(0, flags.contexts)
    .map((text) => `${sentencesOf(text).slice(0, 2).join(" ")} `);
  const layer = flags.layer ?? model.layers.length - 1;
  return {
    layer,
    at,
    method,
    lambda,
    ridge,
    steps,
    enough,
    clamp,
    keepWeight,
    contexts: ["", ...beginnings],
  };
}
