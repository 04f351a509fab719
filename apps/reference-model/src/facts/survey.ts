import { mul } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import { perplexity } from "../training/evaluate.js";
import type { CausalLM } from "../model/model.js";
import { beliefs, type Claim } from "./beliefs.js";
import { editFacts, type EditOptions } from "./edit_facts.js";
import { LayerMemory } from "./layer_memory.js";
import type { Relation, Survey } from "./survey_file.js";

/** Shares of claims whose target is what the model says. */
export interface SurveyShares {
  /** The new object after the prompts that were taught, and after others. */
  readonly efficacy: number;
  readonly paraphrase: number;
  /** What was true of other subjects, those that the edit was told to keep and those that it was not. */
  readonly kept: number;
  readonly others: number;
  /** What is true in the other relations, of every subject. */
  readonly elsewhere: number;
}

export interface SurveyRow extends SurveyShares {
  readonly relation: string;
  readonly subject: string;
  readonly target: string;
  /** The same before the edit. */
  readonly before: SurveyShares;
  /** Of held-out text, after the edit. */
  readonly perplexity: number;
}

const everyOther = <T>(list: readonly T[], first: number): T[] => list.filter((_, i) => i % 2 === first);

/** Every prompt with every subject, after every context. */
function claimsOf(
  contexts: readonly string[],
  prompts: readonly string[],
  objects: readonly (readonly [subject: string, object: string])[],
): Claim[] {
  return contexts.flatMap((context) =>
    prompts.flatMap((prompt) =>
      objects.map(([subject, target]) => ({ prompt: `${context}${prompt.replace("{}", subject)}`, target })),
    ),
  );
}

/**
 * Change each fact of a survey by itself, ask what the model says then, and put the model back: every other one of the
 * other subjects is kept, the rest are only asked about.
 *
 * @throws ConfigError
 */
export async function surveyFacts(
  model: CausalLM,
  tokenizer: Tokenizer,
  { relations, facts, contexts }: Survey,
  documents: readonly string[],
  heldOut: readonly string[],
  options: EditOptions,
  onRow: (row: SurveyRow) => void = () => undefined,
): Promise<SurveyRow[]> {
  const { gpu } = model;
  const { memory } = new LayerMemory(model, options.layer);
  const original = gpu.scope(() => gpu.keep(mul(memory.values(), 1)));
  const said = async (claims: readonly Claim[]): Promise<number> => {
    const found = await beliefs(model, tokenizer, claims);
    return found.filter((b) => b.says === b.target).length / Math.max(1, found.length);
  };
  const rows: SurveyRow[] = [];
  try {
    for (const { relation: name, subject, target } of facts) {
      const { prompts, paraphrases, objects } = relations[name]!;
      const all = ({ prompts: a, paraphrases: b }: Relation): string[] => [...a, ...b];
      const strangers = Object.entries(objects).filter(([other]) => other !== subject);
      const kept = everyOther(strangers, 0);
      const shares = async (): Promise<SurveyShares> => ({
        efficacy: await said(claimsOf(contexts, prompts, [[subject, target]])),
        paraphrase: await said(claimsOf(contexts, paraphrases, [[subject, target]])),
        kept: await said(claimsOf(contexts, all(relations[name]!), kept)),
        others: await said(claimsOf(contexts, all(relations[name]!), everyOther(strangers, 1))),
        elsewhere: await said(
          Object.entries(relations).flatMap(([other, relation]) =>
            other === name ? [] : claimsOf(contexts, all(relation), Object.entries(relation.objects)),
          ),
        ),
      });
      const before = await shares();
      await editFacts(model, tokenizer, [{ subject, prompts, target }], documents, {
        ...options,
        keep: kept.map(([other]) => other),
      });
      const row = {
        relation: name,
        subject,
        target,
        ...(await shares()),
        before,
        perplexity: (await perplexity(gpu, model, tokenizer, heldOut)).perplexity,
      };
      memory.write(original);
      rows.push(row);
      onRow(row);
    }
    return rows;
  } finally {
    memory.write(original);
    original.dispose();
  }
}
