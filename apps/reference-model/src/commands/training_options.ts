import { InvalidArgumentError, Option, type Command } from "commander";
import { ConfigError, type Schema } from "@x/kernels";
import { optionOf, TRAINING, type TrainingOptions } from "../training/options.js";
import { RECIPE } from "../training/recipe.js";

/** The option of a numeric key of a schema: its text is read, and refused by the schema's rule. */
function numericOption(schema: Schema, key: string, title: string, given: unknown): Option {
  const field = schema.fields[key]!;
  const option = new Option(`${optionOf(key)} <x>`, `${title}${field.doc} (default: ${String(given)})`);
  return option.argParser((text: string) => {
    const value = text.trim() === "" ? NaN : Number(text);
    try {
      field.check(schema.name, optionOf(key), value);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      throw new InvalidArgumentError(`It must be: ${field.rule}.`);
    }
    return value;
  });
}

/** An option of the command for each key but a few, with its default in the help. */
export function addTrainingOptions(
  command: Command,
  defaults: TrainingOptions,
  save: readonly (keyof TrainingOptions)[] = [],
): void {
  for (const [key, value] of Object.entries(defaults))
    if (!(save as readonly string[]).includes(key))
      command.addOption(numericOption(TRAINING, key, "", value));
}

/** The options that shape a model of the recipe. */
export function addRecipeOptions(command: Command): void {
  for (const key of RECIPE.keys)
    command.addOption(numericOption(RECIPE, key, "recipe: ", RECIPE.fields[key as "dim"].default));
}
