import { describe, expect, it } from "vitest";
import { ConfigError } from "./base/errors.js";
import { svgLine, svgPicture, svgRect, svgText, svgTextWidth } from "./svg.js";

describe("svg", () => {
  it("has a background of its own and colours of both schemes", () => {
    const svg = svgPicture(10.2, 20, "a & b", [svgText(1, 2, '<"x">')]);
    expect(svg).toMatch(/^<svg [^>]*viewBox="0 0 11 20"[\s\S]*<\/svg>\n$/);
    expect(svg).toContain("prefers-color-scheme:dark");
    expect(svg).toMatch(/<rect x="0" y="0" width="11" height="20" class="f-paper"\/>/);
    expect(svg).toContain('aria-label="a &#38; b"');
    expect(svg).toContain("&#60;&#34;x&#34;&#62;</text>");
  });

  it("contrast of letters with the background is at least 4.5 in both schemes", () => {
    const style = /<style>(.*)<\/style>/.exec(svgPicture(1, 1, "", []))![1]!;
    const [light, dark] = style.split("@media") as [string, string];
    const luminance = (rules: string, name: string): number => {
      const hex = new RegExp(`\\.f-${name}\\{fill:#([0-9a-f]{6})`).exec(rules)![1]!;
      const [r, g, b] = [0, 2, 4].map((i) => {
        const c = parseInt(hex.slice(i, i + 2), 16) / 255;
        return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
      }) as [number, number, number];
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    for (const rules of [light, dark])
      for (const name of ["ink", "first", "second"]) {
        const [a, b] = [luminance(rules, name), luminance(rules, "paper")];
        expect((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)).toBeGreaterThan(4.5);
      }
  });

  it("widths are bounds: DejaVu Sans, the widest usual font, has 0.635 em for n, 0.974 em for m, 0.318 em for a space", () => {
    for (const [letter, em] of [
      ["n", 0.635],
      ["m", 0.974],
      [" ", 0.318],
      ["%", 0.95],
      ["W", 0.989],
    ] as const)
      expect(svgTextWidth(letter.repeat(10), 10)).toBeGreaterThanOrEqual(100 * em);
  });

  it("a coordinate must be finite", () => {
    expect(() => svgLine([[0, NaN]], { stroke: "first" })).toThrow(ConfigError);
    expect(svgRect(0, 0, 1, 2, { fill: "first", title: "a<b" })).toContain("<title>a&#60;b</title></rect>");
  });
});
