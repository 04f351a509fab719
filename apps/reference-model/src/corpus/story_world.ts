/** What is true of each animal in every story: facts that a model can learn, and that can be edited in it. */
export const WORLD = {
  cat: { food: "fish", home: "cottage" },
  dog: { food: "meat", home: "kennel" },
  rabbit: { food: "carrots", home: "burrow" },
  duck: { food: "bread", home: "pond" },
  pony: { food: "apples", home: "stable" },
  hen: { food: "corn", home: "barn" },
  goat: { food: "leaves", home: "hill" },
  mouse: { food: "cheese", home: "cellar" },
  frog: { food: "flies", home: "swamp" },
  fox: { food: "grapes", home: "den" },
} as const;

export type Animal = keyof typeof WORLD;

const boys = ["Tom", "Ben", "Sam", "Max", "Leo", "Finn", "Jack", "Oscar", "Noah", "Eli"];
const girls = ["Anna", "Mia", "Lily", "Sue", "Ella", "Ruby", "Zoe", "Nora", "Ivy", "Clara"];

/** Slots and what may fill them. "he", "his" and "him" follow the hero, "friend" is another name. */
export const SLOTS: Readonly<Record<string, readonly string[]>> = {
  boy: boys,
  girl: girls,
  name: [...boys, ...girls],
  friend: [...boys, ...girls],
  he: ["he", "she"],
  He: ["He", "She"],
  his: ["his", "her"],
  His: ["His", "Her"],
  him: ["him", "her"],
  animal: Object.keys(WORLD),
  food: Object.values(WORLD).map(({ food }) => food),
  home: Object.values(WORLD).map(({ home }) => home),
  place: ["garden", "park", "forest", "beach", "farm", "market", "school", "lake", "meadow", "river"],
  thing: ["ball", "kite", "book", "drum", "boat", "lamp", "hat", "bell", "basket", "wagon"],
  color: ["red", "blue", "green", "yellow", "white", "brown"],
  size: ["little", "big", "round", "new", "tiny", "shiny"],
  weather: ["sunny", "rainy", "windy", "cold", "warm", "cloudy"],
  trait: ["kind", "brave", "curious", "quiet", "clever", "cheerful"],
  time: ["morning", "afternoon", "evening"],
  hiding: [
    "under a tree",
    "behind a rock",
    "near the gate",
    "in the tall grass",
    "beside the path",
    "under the bridge",
  ],
  lesson: [
    "be patient",
    "share with others",
    "ask for help",
    "try again",
    "listen to a friend",
    "tell the truth",
  ],
};
