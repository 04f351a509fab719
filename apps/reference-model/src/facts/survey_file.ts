import { ConfigError } from "@x/kernels";
import { readJson } from "../checkpoint/files.js";
import { expectObject } from "../config/index.js";
import { only, text, texts } from "./edit_file.js";

/** One kind of fact: how it is told, and of whom what is true. */
export interface Relation {
  /** Prompts that an edit is made from, and others that only ask. */
  readonly prompts: readonly string[];
  readonly paraphrases: readonly string[];
  readonly objects: Readonly<Record<string, string>>;
}

/** Facts of several kinds, each to be changed by itself. */
export interface Survey {
  readonly relations: Readonly<Record<string, Relation>>;
  readonly facts: readonly { readonly relation: string; readonly subject: string; readonly target: string }[];
  /** Texts before the questions; "" is the first. */
  readonly contexts: readonly string[];
}

/**
 * Read a survey: `{ "relations": { "food": { "prompts": ["The best food for a {} is"], "paraphrases": ["Every {} likes"],
 * "objects": { "fox": " grapes", "cat": " fish" } } }, "facts": [{ "relation": "food", "subject": "fox",
 * "target": " bread" }], "contexts": ["One sunny morning Mia went to the park. "] }`.
 *
 * @throws ConfigError
 */
export async function readSurvey(path: string): Promise<Survey> {
  const json = expectObject(path, await readJson(path));
  only(path, json, ["relations", "facts", "contexts"]);
  const relations = Object.fromEntries(
    Object.entries(expectObject(`${path}: relations`, json["relations"])).map(([name, value]) => {
      const who = `${path}: relations.${name}`;
      const item = expectObject(who, value);
      only(who, item, ["prompts", "paraphrases", "objects"]);
      const objects = Object.entries(expectObject(`${who}.objects`, item["objects"]));
      const relation: Relation = {
        prompts: texts(`${who}.prompts`, item["prompts"]),
        paraphrases: texts(`${who}.paraphrases`, item["paraphrases"]),
        objects: Object.fromEntries(objects.map(([key, v]) => [key, text(`${who}.objects.${key}`, v)])),
      };
      return [name, relation];
    }),
  );
  if (!Array.isArray(json["facts"]) || json["facts"].length === 0)
    throw new ConfigError(path, "facts must be a list");
  const facts = json["facts"].map((value: unknown, i) => {
    const who = `${path}: facts[${i}]`;
    const item = expectObject(who, value);
    only(who, item, ["relation", "subject", "target"]);
    const [relation, subject] = [
      text(`${who}.relation`, item["relation"]),
      text(`${who}.subject`, item["subject"]),
    ];
    if (relations[relation]?.objects[subject] === undefined)
      throw new ConfigError(who, `there is no ${relation} of ${subject} among the relations`);
    return { relation, subject, target: text(`${who}.target`, item["target"]) };
  });
  const contexts = json["contexts"] === undefined ? [] : texts(`${path}: contexts`, json["contexts"]);
  return { relations, facts, contexts: ["", ...contexts] };
}
