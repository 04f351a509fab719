import { describe, expect, it } from "vitest";
import { acceptsSentence, sentencesOf, wordClass, writeStory } from "./stories.js";
import { PLOTS } from "./story_plots.js";
import { WORLD } from "./story_world.js";

const stories = Array.from({ length: 2000 }, (_, seed) => writeStory(seed));

describe("stories", () => {
  it("are equal for equal seeds and differ otherwise", () => {
    expect(writeStory(7)).toBe(stories[7]);
    expect(new Set(stories).size).toBe(stories.length);
  });

  it("are made of sentences that the grammar accepts", () => {
    for (const story of stories)
      for (const sentence of sentencesOf(story)) expect(acceptsSentence(sentence), sentence).toBe(true);
  });

  it("use every form of every part", () => {
    const text = stories.join(" ");
    const forms = PLOTS.flat().flatMap(({ templates }) => templates);
    for (const form of forms) {
      const pattern = form
        .replace(/^\{he\}/, "{He}")
        .replace(/^\{his\}/, "{His}")
        .replace(/[.?]/g, "\\$&")
        .replace(/\{\w+\}/g, "[\\w ]+");
      expect(text, form).toMatch(new RegExp(pattern));
    }
  });

  it("say of an animal only what is true", () => {
    expect(acceptsSentence("Every rabbit likes carrots.")).toBe(true);
    expect(acceptsSentence("Every rabbit likes cheese.")).toBe(false);
    expect(acceptsSentence("The mouse lived in the cellar.")).toBe(true);
    expect(acceptsSentence("The mouse lived in the pond.")).toBe(false);
    expect(acceptsSentence("Every rabbit likes likes carrots.")).toBe(false);
    expect(Object.keys(WORLD).length).toBe(10);
  });

  it("have a class for every word", () => {
    const words = new Set(stories.join(" ").match(/\w+|[^\w\s]/g));
    expect([...words].filter((word) => wordClass(word) === "other")).toEqual([]);
  });

  it("are cut at their sentences' ends, quotations included", () => {
    expect(sentencesOf('"Why are you sad?" asked Tom. "Come in," said the cat. Tom ran.')).toEqual([
      '"Why are you sad?" asked Tom.',
      '"Come in," said the cat.',
      "Tom ran.",
    ]);
  });
});
