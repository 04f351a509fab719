import { ConfigError, type Gpu, type Tensor } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";

/** What the model is to say of a subject: the target follows each prompt. "{}" in a prompt stands for the subject. */
export interface Fact {
  readonly subject: string;
  readonly prompts: readonly string[];
  readonly target: string;
}

/** The token at which a fact is looked up: the subject's last one, or the one that says the target. */
export type FactPlace = "subject" | "last";

/** One text of a fact: ids, where the key is taken, and which positions say the target. */
export interface FactRow {
  readonly ids: readonly number[];
  readonly key: number;
  readonly targets: readonly number[];
}

/** Texts of one pass through the model. */
export const TOGETHER = 32;

/** Ids of `text` where `prefix` ends at a token's end: how many tokens the prefix takes. */
export function tokensOf(tokenizer: Tokenizer, who: string, prefix: string, ids: readonly number[]): number {
  const head = tokenizer.encode(prefix, { addSpecialTokens: false });
  if (head.some((id, i) => id !== ids[i]))
    throw new ConfigError(who, `${JSON.stringify(prefix)} does not end where a token ends`);
  return head.length;
}

/** The parts of a prompt before and after its subject. @throws ConfigError */
function splitPrompt(who: string, prompt: string): [before: string, after: string] {
  const parts = prompt.split("{}");
  if (parts.length !== 2) throw new ConfigError(who, `prompt ${JSON.stringify(prompt)} must hold {} once`);
  return parts as [string, string];
}

function rowOf(tokenizer: Tokenizer, fact: Fact, context: string, prompt: string, place: FactPlace): FactRow {
  const who = "editFacts";
  const [before, after] = splitPrompt(who, prompt);
  const head = `${context}${before}${fact.subject}`;
  const whole = `${head}${after}${fact.target}`;
  const ids = tokenizer.encode(whole, { addSpecialTokens: false });
  const subject = tokensOf(tokenizer, who, head, ids) - 1;
  const first = tokensOf(tokenizer, who, `${head}${after}`, ids);
  if (first === ids.length) throw new ConfigError(who, "the target is empty");
  // The token before says the next one.
  return {
    ids,
    key: place === "last" ? first - 1 : subject,
    targets: Array.from({ length: ids.length - first }, (_, i) => first + i - 1),
  };
}

/** Every prompt of a fact after every context, one prompt after another. @throws ConfigError */
export function factRows(
  tokenizer: Tokenizer,
  fact: Fact,
  contexts: readonly string[],
  place: FactPlace,
): FactRow[] {
  return fact.prompts.flatMap((prompt) =>
    contexts.map((context) => rowOf(tokenizer, fact, context, prompt, place)),
  );
}

/** Ids of rows, padded at the end: [rows, longest]. Nothing looks ahead, so padding changes nothing. */
export function padded(
  gpu: Gpu,
  rows: readonly { readonly ids: readonly number[] }[],
): { ids: Tensor; width: number } {
  const width = Math.max(...rows.map((row) => row.ids.length));
  const data = new Int32Array(rows.length * width);
  rows.forEach((row, i) => {
    data.set(row.ids, i * width);
  });
  return { ids: gpu.tensor(data, [rows.length, width], "i32"), width };
}

/** Positions in rows that lie one after another, as a tensor for `gather`. */
export const positionsOf = (gpu: Gpu, positions: readonly number[]): Tensor =>
  gpu.tensor(positions, [positions.length], "i32");
