import { Option, type Command } from "commander";
import { RECIPE_DEFAULTS, type RecipeOptions } from "../training/recipe.js";
import { optionOf, type TrainingOptions } from "../training/options.js";
import { integer, number } from "./shared.js";

const TRAINING: Readonly<Record<keyof TrainingOptions, string>> = {
  steps: "steps of the optimizer",
  batch: "sequences of a step",
  seqLen: "tokens of a sequence",
  learningRate: "of AdamW, at its highest",
  warmup: "steps in which the learning rate rises",
  finalRate: "share of the learning rate at the last step; a cosine leads there",
  weightDecay: "of the matrices, times the learning rate",
  clip: "norm of all gradients at most",
  seed: "of the weights and the order of the text",
  validation: "share of the documents that is kept for validation",
  documentStarts: "share of the sequences that begin where a document begins; the others begin anywhere",
  evaluateEvery: "steps from one validation to the next",
  saveEvery: "steps from one save of the run to the next",
};

const RECIPE: Readonly<Record<keyof RecipeOptions, string>> = {
  dim: "width",
  layers: "decoder blocks",
  heads: "query heads",
  kvHeads: "key and value heads",
  hiddenDim:
    "width of a feed-forward block or expert; 0: two thirds of 4 dim, over the experts that are used",
  experts: "experts of a block; 0: a dense block",
  expertsPerToken: "experts that a token uses",
  window: "keys that a query sees; 0: all",
  maxLength: "longest sequence",
};

/** An option for each key, save some, with what it is where it is not given. */
export function addTrainingOptions(
  command: Command,
  defaults: TrainingOptions,
  save: readonly (keyof TrainingOptions)[] = [],
): void {
  const offered = (Object.keys(TRAINING) as (keyof TrainingOptions)[]).filter((key) => !save.includes(key));
  for (const key of offered)
    command.addOption(
      new Option(`${optionOf(key)} <x>`, `${TRAINING[key]} (default: ${defaults[key]})`).argParser(number),
    );
}

/** The options that shape a model of the recipe. */
export function addRecipeOptions(command: Command): void {
  for (const [key, value] of Object.entries(RECIPE_DEFAULTS) as [keyof RecipeOptions, number][])
    command.addOption(
      new Option(`${optionOf(key)} <n>`, `recipe: ${RECIPE[key]} (default: ${value})`).argParser(integer),
    );
}
