import { show } from "../arguments.js";
import type { AddedToken } from "../steps/added_tokens.js";
import { TokenizerError } from "../errors.js";
import type { JsonReader } from "../json_reader.js";

/** Ids by token. */
export function parseVocab(r: JsonReader, where: string, value: unknown): Record<string, number> {
  const vocab: Record<string, number> = Object.create(null) as Record<string, number>;
  for (const [token, id] of Object.entries(r.object(where, value))) {
    if (typeof id !== "number")
      r.fail(`${where}[${JSON.stringify(token)}]`, `is ${show(id)}; it must be an integer`);
    vocab[token] = id;
  }
  return vocab;
}

/** Two tokens that become one: "a b" or [a, b]. */
export function parseMerge(r: JsonReader, where: string, value: unknown): [string, string] {
  const pair = typeof value === "string" ? value.split(" ") : r.array(where, value);
  if (pair.length !== 2 || !pair.every((p) => typeof p === "string" && p !== ""))
    r.fail(where, `is ${show(value)}; it must be two tokens`);
  return pair as [string, string];
}

/** Tokens by id and ids by token. Ids may have gaps, as those of published vocabularies have. */
export class Vocabulary {
  /** The greatest id and one. */
  readonly size: number;
  readonly #ids: Map<string, number> = new Map<string, number>();
  readonly #tokens: Map<number, string> = new Map<number, string>();

  /** @throws TokenizerError for ids that are not integers from 0 on, and ids of two tokens. */
  constructor(source: string, vocab: Readonly<Record<string, number>>, added: readonly AddedToken[]) {
    let size = 0;
    const put = (what: string, token: string, id: number): void => {
      if (!Number.isSafeInteger(id) || id < 0 || id > 2 ** 24)
        throw new TokenizerError(
          source,
          `${what} ${JSON.stringify(token)} has id ${String(id)}; ids are integers from 0 on`,
        );
      const other = this.#tokens.get(id);
      if (other !== undefined && !(what === "added token" && other === token))
        throw new TokenizerError(
          source,
          what === "token"
            ? `tokens ${JSON.stringify(other)} and ${JSON.stringify(token)} have the same id ${id}`
            : `added token ${JSON.stringify(token)} has the id ${id} of ${JSON.stringify(other)}`,
        );
      this.#tokens.set(id, token);
      this.#ids.set(token, id);
      size = Math.max(size, id + 1);
    };
    for (const [token, id] of Object.entries(vocab)) put("token", token, id);
    for (const { id, content } of added) {
      if (content === "") throw new TokenizerError(source, `added token ${id} is empty`);
      put("added token", content, id);
    }
    this.size = size;
  }

  id(token: string): number | undefined {
    return this.#ids.get(token);
  }

  token(id: number): string | undefined {
    return this.#tokens.get(id);
  }
}
