import { describe, expect, it } from "vitest";
import { HostRandom } from "../corpus/random.js";
import { draw, type DrawOptions } from "./draw.js";

const PLAIN: DrawOptions = {
  temperature: 1,
  topP: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  logitBias: new Map(),
  topLogprobs: undefined,
};

/** Logits of probabilities, up to a shift that changes nothing. */
const logitsOf = (probabilities: readonly number[]): Float32Array =>
  Float32Array.from(probabilities, (p) => Math.log(p) + 3);

/** The share of each id in many draws. */
function shares(
  logits: Float32Array,
  change: Partial<DrawOptions>,
  counts = new Map<number, number>(),
  times = 20_000,
): number[] {
  const random = new HostRandom(5);
  const out = new Array<number>(logits.length).fill(0);
  for (let i = 0; i < times; i++) out[draw(logits, { ...PLAIN, ...change }, counts, random).id]! += 1 / times;
  return out;
}

const near = (got: readonly number[], want: readonly number[]): void => {
  for (const [i, share] of want.entries()) {
    // Four standard deviations of a share of 20 000 draws are below 0.0142.
    if (share === 0) expect(got[i], `share of ${i}`).toBe(0);
    else expect(Math.abs(got[i]! - share), `share of ${i}`).toBeLessThan(0.0142);
  }
};

describe("drawing an id", () => {
  const p = [0.1, 0.4, 0.2, 0.3];
  const logits = logitsOf(p);

  it("follows the softmax of the logits divided by the temperature", () => {
    near(shares(logits, {}), p);
    const squared = p.map((x) => x * x);
    const total = squared.reduce((a, b) => a + b);
    near(
      shares(logits, { temperature: 0.5 }),
      squared.map((x) => x / total),
    );
    expect(draw(logits, { ...PLAIN, temperature: 0 }, new Map(), new HostRandom(1)).id).toBe(1);
  });

  it("topP keeps the fewest ids that hold the share, also where many ids hold little each", () => {
    near(shares(logits, { topP: 0.69 }), [0, 4 / 7, 0, 3 / 7]);
    near(shares(logits, { topP: 0.75 }), [0, 4 / 9, 2 / 9, 3 / 9]);
    near(shares(logits, { topP: 0 }), [0, 1, 0, 0]);
    // 5000 ids, of which none has a thousandth of the best one's weight.
    const flat = new Float32Array(5001).fill(-8);
    flat[17] = 0;
    const weight = Math.exp(-8) * 5000;
    const share = shares(flat, { topP: 0.5 }, new Map(), 400)[17]!;
    // The share of 1 / (1 + weight) among all is one of half of them; a standard deviation is 0.022.
    expect(Math.abs(share - 2 / (1 + weight))).toBeLessThan(0.09);
  });

  it("biases are added, and penalties subtracted by what has occurred", () => {
    const counts = new Map([
      [1, 2],
      [3, 1],
    ]);
    const change = { frequencyPenalty: 0.5, presencePenalty: 0.25, logitBias: new Map([[0, 1]]) };
    const weights = [p[0]! * Math.E, p[1]! * Math.exp(-1.25), p[2]!, p[3]! * Math.exp(-0.75)];
    const total = weights.reduce((a, b) => a + b);
    near(
      shares(logits, change, counts),
      weights.map((x) => x / total),
    );
    // The logits of the caller stay as they are.
    expect(logits).toEqual(logitsOf(p));
  });

  it("reports logarithms of the model's own probabilities, the best first", () => {
    const options = { ...PLAIN, temperature: 0, topLogprobs: 3, logitBias: new Map([[0, 100]]) };
    const { id, logprob, top } = draw(logits, options, new Map(), new HostRandom(1));
    expect(id).toBe(0);
    expect(logprob).toBeCloseTo(Math.log(0.1), 5);
    expect(top.map((one) => one.id)).toEqual([1, 3, 2]);
    for (const one of top) expect(one.logprob).toBeCloseTo(Math.log(p[one.id]!), 5);
  });

  it("never draws what is masked or undefined, and takes infinity", () => {
    near(shares(Float32Array.of(NaN, 0, -Infinity, 0), {}), [0, 0.5, 0, 0.5]);
    near(shares(Float32Array.of(NaN, 0, -Infinity, 0), { topP: 0.99 }), [0, 0.5, 0, 0.5]);
    near(shares(Float32Array.of(1, Infinity, 5), { temperature: 2 }), [0, 1, 0]);
  });
});
