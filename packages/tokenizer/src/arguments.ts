import { TokenizerError } from "./errors.js";

/** A value as text: short, and safe for what nests deeply. */
export function show(value: unknown): string {
  if (value === undefined) return "absent";
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === "function") return "a function";
  if (typeof value === "object" && value !== null) return "an object";
  if (typeof value === "string") return JSON.stringify(value).slice(0, 60);
  return typeof value === "symbol" ? "a symbol" : `${value as number | bigint | boolean | null}`;
}

/** Letters in common, in order, of two names without regard to case and underscores, over the longer one's length. */
function likeness(a: string, b: string): number {
  const [x, y] = [a, b].map((name) => name.toLowerCase().replaceAll("_", "")) as [string, string];
  let row = new Array<number>(y.length + 1).fill(0);
  for (const letter of x) {
    const next = [0];
    for (let j = 0; j < y.length; j++)
      next.push(y[j] === letter ? row[j]! + 1 : Math.max(row[j + 1]!, next[j]!));
    row = next;
  }
  return row[y.length]! / Math.max(1, x.length, y.length);
}

/** Check that options are an object of known keys. @throws TokenizerError that names the nearest known key */
export function expectOptions(who: string, options: unknown, known: readonly string[]): void {
  if (typeof options !== "object" || options === null || Array.isArray(options))
    throw new TokenizerError(who, `the options are ${show(options)}; they must be an object`);
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue;
    const [near] = [...known].sort((a, b) => likeness(key, b) - likeness(key, a));
    const hint = near !== undefined && likeness(key, near) >= 0.6 ? ` (did you mean ${near}?)` : "";
    throw new TokenizerError(who, `unknown option ${key}${hint}; the options are ${known.join(", ")}`);
  }
}

/** Check that an argument is a string. */
export function expectText(who: string, name: string, value: unknown): void {
  if (typeof value !== "string")
    throw new TokenizerError(who, `${name} is ${show(value)}; it must be a string`);
}

/** Check that an option is true, false or absent. */
export function expectFlag(who: string, name: string, value: unknown): void {
  if (value !== undefined && typeof value !== "boolean")
    throw new TokenizerError(who, `${name} is ${show(value)}; it must be true or false`);
}

/** Ids as a list. @throws TokenizerError for what is not a list of integers from 0 on */
export function expectIds(who: string, name: string, ids: unknown): number[] {
  if (typeof ids !== "object" || ids === null || !(Symbol.iterator in ids))
    throw new TokenizerError(who, `${name} are ${show(ids)}; they must be a list of ids`);
  const list = [...(ids as Iterable<unknown>)];
  for (const id of list) {
    if (!Number.isSafeInteger(id) || (id as number) < 0)
      throw new TokenizerError(who, `${name} hold ${show(id)}; an id is an integer from 0 on`);
  }
  return list as number[];
}
