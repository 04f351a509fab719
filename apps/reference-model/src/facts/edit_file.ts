import { readJson } from "../checkpoint/files.js";
import { expectObject } from "../config/index.js";
import { ConfigError } from "@x/kernels";
import type { Claim } from "./beliefs.js";
import type { Fact } from "./fact.js";

/** Facts to change, and what to look at before and after. */
export interface EditFile {
  readonly facts: readonly Fact[];
  /** Subjects of which the model is to say what it says. */
  readonly keep: readonly string[];
  /** Claims by name of the group. */
  readonly checks: Readonly<Record<string, readonly Claim[]>>;
}

export function text(who: string, value: unknown): string {
  if (typeof value !== "string") throw new ConfigError(who, `is ${JSON.stringify(value)}; it must be a text`);
  return value;
}

export function texts(who: string, value: unknown): string[] {
  if (!Array.isArray(value) || value.length === 0) throw new ConfigError(who, "must be a list of texts");
  return value.map((v, i) => text(`${who}[${i}]`, v));
}

/** Keys that an object may have. */
export function only(who: string, value: Readonly<Record<string, unknown>>, known: readonly string[]): void {
  for (const key of Object.keys(value))
    if (!known.includes(key))
      throw new ConfigError(who, `unknown key ${JSON.stringify(key)} (known: ${known.join(", ")})`);
}

/**
 * Read a file of facts: `{ "facts": [{ "subject": "fox", "prompts": ["The best food for a {} is"],
 * "target": " bread" }], "checks": { NAME: { "prompts": ["Every {} likes"], "targets": { "fox": " bread" } } },
 * "keep": ["cat"], "contexts": ["One sunny morning Mia went to the park. "] }`. A group of checks is every prompt with every subject,
 * after every context and after none.
 *
 * @throws ConfigError
 */
export async function readEditFile(path: string): Promise<EditFile> {
  const json = expectObject(path, await readJson(path));
  only(path, json, ["facts", "keep", "checks", "contexts"]);
  if (!Array.isArray(json["facts"])) throw new ConfigError(path, "facts must be a list");
  const facts = json["facts"].map((item: unknown, i): Fact => {
    const who = `${path}: facts[${i}]`;
    const fact = expectObject(who, item);
    only(who, fact, ["subject", "prompts", "target"]);
    return {
      subject: text(`${who}.subject`, fact["subject"]),
      prompts: texts(`${who}.prompts`, fact["prompts"]),
      target: text(`${who}.target`, fact["target"]),
    };
  });
  const keep = json["keep"] === undefined ? [] : texts(`${path}: keep`, json["keep"]);
  const contexts = [
    "",
    ...(json["contexts"] === undefined ? [] : texts(`${path}: contexts`, json["contexts"])),
  ];
  const groups = json["checks"] === undefined ? {} : expectObject(`${path}: checks`, json["checks"]);
  const checks = Object.entries(groups).map(([name, item]): [string, Claim[]] => {
    const who = `${path}: checks.${name}`;
    const group = expectObject(who, item);
    only(who, group, ["prompts", "targets"]);
    const targets = Object.entries(expectObject(`${who}.targets`, group["targets"]));
    const claims = contexts.flatMap((context) =>
      texts(`${who}.prompts`, group["prompts"]).flatMap((prompt) =>
        targets.map(([subject, target]) => ({
          prompt: `${context}${prompt.replace("{}", subject)}`,
          target: text(`${who}.targets.${subject}`, target),
        })),
      ),
    );
    return [name, claims];
  });
  return { facts, keep, checks: Object.fromEntries(checks) };
}
