import { FormatError } from "@x/kernels";

/** A text in quotes, or the bare word that Python writes for an infinite number. */
const INFINITY = /"(?:[^"\\]|\\.)*"|-?\bInfinity\b/g;
/** Numbers that JSON.parse takes for infinite ones. */
const INFINITE: Readonly<Record<string, string>> = { Infinity: "1e999", "-Infinity": "-1e999" };

/** A value as JSON, with infinite numbers as the bare words that Python and this module read. */
export function jsonText(value: unknown): string {
  const word = (n: unknown): unknown =>
    n === Infinity ? "\u0000Infinity" : n === -Infinity ? "\u0000-Infinity" : n;
  return JSON.stringify(value, (_, n: unknown) => word(n), 2).replace(/"\\u0000(-?Infinity)"/g, "$1");
}

/** Parse the text of a JSON file; it may hold the bare word Infinity, as configurations of Mamba-2 do. @throws FormatError */
export function parseJson(file: string, text: string): unknown {
  try {
    return JSON.parse(text.replace(INFINITY, (found) => INFINITE[found] ?? found)) as unknown;
  } catch (cause) {
    throw new FormatError(file, `is no JSON (${cause instanceof Error ? cause.message : String(cause)})`, {
      cause,
    });
  }
}
