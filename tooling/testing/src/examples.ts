import { readFileSync } from "node:fs";

/** The TypeScript blocks of a README, in order. */
export function examples(readme: string): string[] {
  return [...readFileSync(readme, "utf8").matchAll(/```ts\n([\s\S]*?)```/g)].map((m) => m[1]!);
}

const NUMBER = /^-?\d+(\.\d+)?(e[+-]?\d+)?$/i;

/** Words, numbers and punctuation, without white space, quotes and the names that Node gives typed arrays. */
function tokens(text: string): string[] {
  const bare = text.replace(/\b\w+Array\(\d+\) /g, "").replace(/["'`]/g, "");
  return bare.match(/\.\.\.|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|[\p{L}_]+|[^\s]/giu) ?? [];
}

/** An integer is exact, a decimal number is right to the digits that are written. */
function agree(expected: string, actual: string): boolean {
  if (!NUMBER.test(expected) || !NUMBER.test(actual)) return expected === actual;
  const digits = /\.(\d+)/.exec(expected)?.[1]?.length ?? 0;
  const unit = digits === 0 ? 0 : 10 ** (Number(/e(.*)$/i.exec(expected)?.[1] ?? 0) - digits);
  return Math.abs(Number(expected) - Number(actual)) <= 0.501 * unit;
}

/** Where `expected` ends in `actual`, at `from` or later; -1 if it is not there. `...` stands for anything. */
function find(expected: readonly string[], actual: readonly string[], from: number): number {
  const at = expected.indexOf("...");
  const head = at < 0 ? expected : expected.slice(0, at);
  for (let start = from; start + head.length <= actual.length; start++) {
    if (!head.every((token, i) => agree(token, actual[start + i]!))) continue;
    const end = start + head.length;
    const rest = at < 0 ? end : find(expected.slice(at + 1), actual, end);
    if (rest >= 0) return rest;
  }
  return -1;
}

/**
 * What is wrong with an example's output. In an example a comment `// prints TEXT` says what is printed; several say it
 * in order, and every example has one. Numbers hold to the digits that are written, integers exactly, `...` stands for
 * anything; white space, quotes and the names of typed arrays do not count. Nothing that is printed may be NaN,
 * undefined or infinite.
 */
export function outputFaults(example: string, output: string): string[] {
  const faults: string[] = [];
  const senseless = /\b(NaN|undefined|Infinity)\b|\[object \w+\]/.exec(output);
  if (senseless) faults.push(`the output holds ${senseless[0]}: ${output.trim()}`);
  const promised = [...example.matchAll(/\/\/ prints (.*)$/gm)].map((m) => m[1]!);
  if (promised.length === 0)
    faults.push("the example does not say what it prints: add a comment `// prints ...`");
  const printed = tokens(output);
  let from = 0;
  for (const text of promised) {
    const end = find(tokens(text), printed, from);
    if (end < 0) faults.push(`the example prints ${output.trim()}, and not, in its place, ${text}`);
    else from = end;
  }
  return faults;
}
