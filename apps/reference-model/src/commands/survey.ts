import type { Command } from "commander";
import { writeAtomically } from "../checkpoint/files.js";
import { loadCheckpoint } from "../checkpoint/load.js";
import { surveyFacts, type SurveyRow, type SurveyShares } from "../facts/survey.js";
import { readSurvey } from "../facts/survey_file.js";
import { addEditOptions, editOptions, sampleText, type EditMethodFlags } from "./edit_options.js";
import { componentsOf } from "./components_option.js";
import { loadingBar } from "./progress.js";
import { expectTokenizer, withDevice } from "./shared.js";
import { table } from "./table.js";

const PARTS = ["efficacy", "paraphrase", "kept", "others", "elsewhere"] as const;

const mean = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0) / numbers.length;

function sharesOf(list: readonly SurveyShares[]): SurveyShares {
  const of = (key: keyof SurveyShares): number => mean(list.map((row) => row[key]));
  return {
    efficacy: of("efficacy"),
    paraphrase: of("paraphrase"),
    kept: of("kept"),
    others: of("others"),
    elsewhere: of("elsewhere"),
  };
}

function cells(name: readonly string[], row: SurveyShares, perplexity?: number): string[] {
  const shares = PARTS.map((key) => `${(100 * row[key]).toFixed(0)} %`);
  return [...name, ...shares, perplexity?.toFixed(4) ?? ""];
}

/** `edit-survey`: change facts one by one, each in the model as it was. */
export function surveyCommand(program: Command): void {
  const command = program
    .command("edit-survey")
    .description("change each of many facts by itself, and show what the model says then; nothing is saved")
    .requiredOption(
      "--facts <file>",
      'JSON: {"relations":{NAME:{"prompts","paraphrases","objects"}},"facts":[{"relation","subject","target"},..],"contexts":[..]}',
    );
  addEditOptions(command).action(async (flags: EditMethodFlags & { facts: string }) => {
    const survey = await readSurvey(flags.facts);
    const { documents, heldOut } = await sampleText(flags);
    const components = await componentsOf(flags);
    await withDevice(async (gpu) => {
      const { model } = await loadCheckpoint(gpu, flags.model, { ...loadingBar(flags.model), components });
      const tokenizer = await expectTokenizer("edit-survey", flags.model);
      const options = editOptions(flags, model, documents);
      const rows = await surveyFacts(model, tokenizer, survey, documents, heldOut, options, (row) => {
        process.stderr.write(`${row.relation} of the ${row.subject}:${row.target}\n`);
      });
      const name = (row: SurveyRow): string[] => [row.relation, row.subject, row.target.trim()];
      process.stdout.write(
        table(
          ["relation", "subject", "new object", ...PARTS, "perplexity"],
          [
            ...rows.map((row) => cells(name(row), row, row.perplexity)),
            cells(["mean", "", ""], sharesOf(rows), mean(rows.map((row) => row.perplexity))),
            cells(["before", "", ""], sharesOf(rows.map((row) => row.before))),
          ],
        ),
      );
      if (flags.report !== undefined)
        await writeAtomically(flags.report, `${JSON.stringify({ layer: options.layer, rows }, null, 2)}\n`);
      model.dispose();
    });
  });
}
