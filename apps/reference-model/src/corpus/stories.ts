import { HostRandom } from "./random.js";
import { PLOTS } from "./story_plots.js";
import { FUNCTION_WORDS } from "./story_words.js";
import { SLOTS, WORLD, type Animal } from "./story_world.js";

/**
 * Small stories of this repository's own grammar: it writes them, and it says whether a sentence is one of its own.
 * The slots of a story agree with each other, and what it says of its animals is true in every story (`WORLD`).
 */

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function fill(template: string, values: Readonly<Record<string, string>>): string {
  return template.replace(/\{(\w+)\}/g, (_, slot: string) => values[slot]!);
}

/** A story of a seed: the same one on every machine. */
export function writeStory(seed: number): string {
  const random = new HostRandom(0x5709, seed);
  const plot = random.pick(PLOTS);
  const girls = SLOTS["girl"]!;
  const hero = random.pick([...SLOTS["boy"]!, ...girls]);
  const she = girls.includes(hero);
  const animal = random.pick(Object.keys(WORLD)) as Animal;
  const own: Record<string, string> = {
    name: hero,
    friend: random.pick(SLOTS["name"]!.filter((name) => name !== hero)),
    he: she ? "she" : "he",
    He: she ? "She" : "He",
    his: she ? "her" : "his",
    him: she ? "her" : "him",
    animal,
    ...WORLD[animal],
  };
  for (const slot of ["place", "thing", "color", "size", "weather", "trait", "time", "hiding", "lesson"])
    own[slot] = random.pick(SLOTS[slot]!);
  const sentences: string[] = [];
  for (const { templates, optional } of plot) {
    if (optional !== undefined && random.next() < optional) continue;
    sentences.push(capital(fill(random.pick(templates), own)));
  }
  return sentences.join(" ");
}

const escape = (text: string): string => text.replace(/[.?]/g, "\\$&");
const anyOf = (list: readonly string[]): string => `(?:${list.map(escape).join("|")})`;

/** Patterns of a template: one, or one for each animal where it says what is true of the animal. */
function patterns(template: string): string[] {
  const facts = ["food", "home"].some((slot) => template.includes(`{${slot}}`));
  const start = template.replace(/^\{h(e|is)\}/, "{H$1}");
  const slots = (text: string, values: Readonly<Record<string, readonly string[]>>): string =>
    escape(capital(text)).replace(/\{(\w+)\}/g, (_, slot: string) => anyOf(values[slot]!));
  if (!facts) return [slots(start, SLOTS)];
  return Object.entries(WORLD).map(([animal, { food, home }]) =>
    slots(start, { ...SLOTS, animal: [animal], food: [food], home: [home] }),
  );
}

const ACCEPTED: RegExp = new RegExp(
  `^(?:${PLOTS.flat()
    .flatMap(({ templates }) => templates.flatMap(patterns))
    .join("|")})$`,
);

/** Cut a story into its sentences; an end mark in a quotation ends one unless the sentence goes on in small letters. */
export function sentencesOf(story: string): string[] {
  const out: string[] = [];
  let start = 0;
  let quoted = false;
  for (let i = 0; i < story.length; i++) {
    const char = story[i]!;
    if (char === '"') quoted = !quoted;
    const closed = char === '"' && !quoted && /[.?!]/.test(story[i - 1] ?? "");
    const ended = !quoted && /[.?!]/.test(char) && story[i + 1] !== '"';
    if (!closed && !ended) continue;
    // A quotation goes on after its first word by whom it is said: "..?" asked Tom.
    if (closed && /^\s+(?:[a-z]|(?:said|asked)\b)/.test(story.slice(i + 1, i + 8))) continue;
    out.push(story.slice(start, i + 1).trim());
    start = i + 1;
  }
  const rest = story.slice(start).trim();
  if (rest !== "") out.push(rest);
  return out.filter((s) => s !== "");
}

/** True for a sentence that the grammar can write, with what it says of animals true. */
export function acceptsSentence(sentence: string): boolean {
  return ACCEPTED.test(sentence);
}

/** Classes of words: what fills a slot, or a class of function words; "other" for what the grammar does not know. */
export function wordClass(word: string): string {
  const lower = word.toLowerCase();
  if (/^[.,?!]$/.test(word)) return "punctuation";
  if (word === '"') return "quotation mark";
  if (SLOTS["name"]!.includes(word)) return "name";
  for (const [name, words] of Object.entries(FUNCTION_WORDS)) if (words.includes(lower)) return name;
  for (const slot of [
    "animal",
    "place",
    "thing",
    "color",
    "size",
    "food",
    "home",
    "weather",
    "trait",
    "time",
  ])
    if (SLOTS[slot]!.includes(lower)) return slot;
  return "other";
}
