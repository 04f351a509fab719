import { HostRandom } from "./random.js";

/**
 * A grammar of small stories, owned by this repository: it writes them, and it says whether a sentence is one of its
 * own. Sentences are templates with slots; the slots of a story agree with each other.
 */

interface Person {
  readonly name: string;
  readonly he: "he" | "she";
}

const people: readonly Person[] = [
  ...["Tom", "Ben", "Sam", "Max", "Leo", "Finn", "Jack", "Oscar", "Noah", "Eli"].map((name) => ({
    name,
    he: "he" as const,
  })),
  ...["Anna", "Mia", "Lily", "Sue", "Ella", "Ruby", "Zoe", "Nora", "Ivy", "Clara"].map((name) => ({
    name,
    he: "she" as const,
  })),
];
const animals = ["cat", "dog", "rabbit", "duck", "pony", "hen", "goat", "mouse", "frog", "owl"];
const places = ["garden", "park", "forest", "beach", "farm", "market", "school", "lake", "meadow", "village"];
const things = ["ball", "kite", "book", "drum", "boat", "lamp", "hat", "bell", "basket", "wagon"];
const colors = ["red", "blue", "green", "yellow", "white", "brown"];
const sizes = ["little", "big", "old", "new", "tiny", "shiny"];
const foods = ["bread", "soup", "cake", "apples", "honey", "cheese", "berries", "milk"];
const weathers = ["sunny", "rainy", "windy", "cold", "warm", "cloudy"];
const traits = ["kind", "brave", "curious", "quiet", "clever", "cheerful"];
const feelings = ["sad", "tired", "hungry", "worried", "lonely"];
const times = ["morning", "afternoon", "evening"];
const hiding = [
  "under a tree",
  "behind a rock",
  "near the gate",
  "in the tall grass",
  "beside the path",
  "under the bridge",
];
const lessons = [
  "be patient",
  "share with others",
  "ask for help",
  "try again",
  "listen to a friend",
  "tell the truth",
];

/** Slots and what may fill them; "He" and "he" follow the hero, "Friend" is another name. */
const SLOTS: Readonly<Record<string, readonly string[]>> = {
  name: people.map((p) => p.name),
  friend: people.map((p) => p.name),
  he: ["he", "she"],
  He: ["He", "She"],
  his: ["his", "her"],
  him: ["him", "her"],
  animal: animals,
  place: places,
  thing: things,
  color: colors,
  size: sizes,
  food: foods,
  weather: weathers,
  trait: traits,
  feeling: feelings,
  time: times,
  hiding,
  lesson: lessons,
};

/** The parts of a story in order; each gives one sentence. */
const PARTS: readonly (readonly string[])[] = [
  [
    "Once upon a time there was a {trait} child named {name}.",
    "{name} was a {trait} child who lived near the {place}.",
    "In a small house by the {place} lived a {trait} child called {name}.",
  ],
  [
    "{name} had a {size} {color} {thing}.",
    "{He} loved {his} {size} {color} {thing} very much.",
    "Every day {he} played with a {size} {color} {thing}.",
  ],
  [
    "One {weather} {time} {name} went to the {place}.",
    "On a {weather} {time} {he} walked to the {place} with the {thing}.",
    "One {time} it was {weather}, and {name} ran to the {place}.",
  ],
  [
    "There {he} met a {feeling} {animal}.",
    "At the {place} {he} saw a {feeling} {animal}.",
    "A {feeling} {animal} was sitting {hiding}.",
  ],
  [
    'The {animal} said, "I am so {feeling}."',
    '"Why are you {feeling}?" asked {name}.',
    "{name} asked the {animal} why it was {feeling}.",
  ],
  [
    '"I have lost my {food}," said the {animal}.',
    "The {animal} had lost all of its {food}.",
    '"I cannot find my way home," said the {animal}.',
    "The {animal} could not find its friends.",
  ],
  [
    "{name} wanted to help the {animal}.",
    '"I will help you," said {name}.',
    "{He} thought about it for a long time.",
    "{He} gave the {animal} some {food}.",
  ],
  [
    "They looked {hiding}, but they found nothing.",
    "First they looked {hiding}.",
    "Then {friend} came and wanted to help too.",
    "{name} called {his} friend {friend}.",
    "They walked around the {place} together.",
  ],
  [
    "At last they found the {food} {hiding}.",
    "In the end the {animal} was happy again.",
    "Soon the {animal} was not {feeling} any more.",
    "{friend} found a {color} {thing} {hiding}.",
    "After a while the {animal} began to smile.",
  ],
  [
    "They all ate {food} together.",
    "The {animal} thanked {him} and danced.",
    '"Thank you," said the {animal} to {name}.',
    "{name} let the {animal} play with the {thing}.",
  ],
  [
    "In the {time} {name} went home with a warm heart.",
    "{He} went home and told {his} mother about the {animal}.",
    "When it got dark {name} went back home.",
  ],
  [
    "{name} had learned to {lesson}.",
    "From that day on {name} and the {animal} were friends.",
    "{He} never forgot the {animal}.",
    "And {he} always remembered to {lesson}.",
  ],
];

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** A story of a seed: the same one on every machine. */
export function writeStory(seed: number): string {
  const random = new HostRandom(0x5709, seed);
  const hero = random.pick(people);
  const others = people.filter((p) => p.name !== hero.name);
  const own: Record<string, string> = {
    name: hero.name,
    friend: random.pick(others).name,
    he: hero.he,
    He: capital(hero.he),
    his: hero.he === "he" ? "his" : "her",
    him: hero.he === "he" ? "him" : "her",
  };
  for (const slot of [
    "animal",
    "place",
    "thing",
    "color",
    "size",
    "food",
    "weather",
    "trait",
    "feeling",
    "time",
    "hiding",
    "lesson",
  ]) {
    own[slot] = random.pick(SLOTS[slot]!);
  }
  const sentences: string[] = [];
  for (const [i, part] of PARTS.entries()) {
    // Some of the middle may be left out.
    if (i > 3 && i < 10 && random.next() < 0.25) continue;
    sentences.push(random.pick(part).replace(/\{(\w+)\}/g, (_, slot: string) => own[slot]!));
  }
  return sentences.join(" ");
}

const ACCEPTED: RegExp = new RegExp(
  `^(?:${PARTS.flat()
    .map((template) =>
      template
        .replace(/[.?]/g, "\\$&")
        .replace(/\{(\w+)\}/g, (_, slot: string) => `(?:${SLOTS[slot]!.join("|")})`),
    )
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
    if (closed && /^\s+[a-z]/.test(story.slice(i + 1, i + 4))) continue;
    out.push(story.slice(start, i + 1).trim());
    start = i + 1;
  }
  const rest = story.slice(start).trim();
  if (rest !== "") out.push(rest);
  return out.filter((s) => s !== "");
}

/** True for a sentence that the grammar can write. */
export function acceptsSentence(sentence: string): boolean {
  return ACCEPTED.test(sentence);
}
