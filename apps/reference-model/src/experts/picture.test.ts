import { describe, expect, it } from "vitest";
import { svgTextWidth } from "@x/kernels";
import { expertSvg } from "./picture.js";
import { lossCurve } from "../training/loss_curve.js";

/** Every line of text lies inside the picture. */
function expectInside(svg: string): { width: number; height: number } {
  const [, width, height] = /viewBox="0 0 (\d+) (\d+)"/.exec(svg)!.map(Number) as [number, number, number];
  const texts = svg.matchAll(
    /<text x="([\d.]+)" y="([\d.]+)" font-size="(\d+)" text-anchor="(\w+)"[^>]*?( transform="[^"]*")? class="[^"]*">([^<]*)</g,
  );
  for (const [, x, y, size, anchor, turned, text] of texts) {
    const long = svgTextWidth(text!, Number(size)) / (anchor === "middle" ? 2 : 1);
    const [before, after] = [anchor === "start" ? 0 : long, anchor === "end" ? 0 : long];
    const [low, high, limit] = turned
      ? [Number(y) - after, Number(y) + before, height]
      : [Number(x) - before, Number(x) + after, width];
    expect(low, text).toBeGreaterThanOrEqual(0);
    expect(high, text).toBeLessThanOrEqual(limit);
  }
  return { width, height };
}

describe("pictures", () => {
  const classes = ["verb", "a class of a very long name", "name"].map((name) => ({ name, tokens: 5 }));
  const layers = (n: number) =>
    Array.from({ length: n }, (_, i) => ({
      name: `model.layers.${i}.block_sparse_moe`,
      numExperts: 4,
      topK: 1,
      load: [0.1, 0.2, 0.3, 0.4],
      loadEntropy: 1,
      routerEntropy: 1,
      maxOverMean: 1,
      deadExperts: 0,
      mutualInformation: 0,
      typeShare: classes.map(() => [0.25, 0.25, 0.25, 0.25]),
      expertShare: classes.map(() => [0.3, 0.3, 0.3, 0.3]),
    }));

  it.each([1, 2, 9, 32])("the experts of %i layers: labels fit, and the shape is that of a page", (n) => {
    const svg = expertSvg({ tokens: 15, classes, layers: layers(n) });
    const { width, height } = expectInside(svg);
    if (n > 2) expect(width / height).toBeGreaterThan(0.7);
    expect(width / height).toBeLessThan(2.5);
    for (const label of [">expert<", ">share of choices<", "100 %"]) expect(svg).toContain(label);
  });

  it("a loss curve names its axes with units; one step and a loss of 0 are drawn", () => {
    const svg = lossCurve(
      [
        [1, 7],
        [2, 3],
      ],
      [[2, 3.5]],
    );
    expectInside(svg);
    for (const label of [
      "step of the optimizer",
      "loss in nats per token",
      "training loss",
      "validation loss",
    ])
      expect(svg).toContain(label);
    expectInside(lossCurve([[1, 0]], []));
    expectInside(lossCurve([], []));
  });
});
