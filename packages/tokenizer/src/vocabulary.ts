import { show, type JsonReader } from "./json_reader.js";

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
