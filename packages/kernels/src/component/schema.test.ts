import { describe, expect, it } from "vitest";
import { ConfigError } from "../base/errors.js";
import {
  boolean,
  either,
  integer,
  listOf,
  nested,
  number,
  oneOf,
  schema,
  text,
  value,
  type Config,
  type Resolved,
} from "./schema.js";

const INNER = schema("Inner", { depth: integer("Depth.", { min: 1, default: 2 }) });
const THING = schema("Thing", {
  dim: integer("Width.", { min: 1 }),
  eps: number("Added to the mean square.", { min: 0, default: 1e-6 }),
  base: number("Base.", { min: Number.MIN_VALUE, default: 10000 }),
  gate: oneOf("Gate.", ["silu", "gelu"], { default: "silu" }),
  bias: boolean("Has biases.", { default: false }),
  headDim: integer("Width of a head.", { min: 1, defaultDoc: "dim / 4" }),
  label: text("Label.", { optional: true }),
  inner: nested(INNER, "Inner configuration.", { optional: true }),
  dilation: either(
    integer("One.", { min: 1 }),
    listOf(integer("Each.", { min: 1 }), "List.", { minLength: 1 }),
    (given) => !Array.isArray(given),
    "One dilation or one per head.",
    { default: 1 },
  ),
  hook: value("Hook.", "a function", (given): given is () => number => typeof given === "function", {
    optional: true,
  }),
});
type Thing = Config<typeof THING>;
type ResolvedThing = Resolved<typeof THING>;

describe("schema", () => {
  it("fills in defaults, and leaves optional keys undefined", () => {
    const read: ResolvedThing = THING.read({ dim: 8, eps: undefined });
    expect(read).toEqual({
      dim: 8,
      eps: 1e-6,
      base: 10000,
      gate: "silu",
      bias: false,
      headDim: undefined,
      label: undefined,
      inner: undefined,
      dilation: 1,
      hook: undefined,
    });
  });

  it("types: required keys must be given, defaults are never undefined after reading", () => {
    const thing: Thing = { dim: 1, dilation: [1, 2], gate: "gelu", inner: { depth: 3 } };
    const eps: number = THING.read(thing).eps;
    const gate: "silu" | "gelu" = THING.read(thing).gate;
    const headDim: number | undefined = THING.read(thing).headDim;
    expect([eps, gate, headDim]).toEqual([1e-6, "gelu", undefined]);
    // @ts-expect-error dim is required
    const none: Thing = {};
    // @ts-expect-error there is no such gate
    const gated: Thing = { dim: 1, gate: "relu" };
    // @ts-expect-error there is no such key
    const unknown: Thing = { dim: 1, width: 2 };
    for (const wrong of [none, gated, unknown]) expect(() => THING.read(wrong)).toThrow(ConfigError);
  });

  const wrong: [string, unknown, string][] = [
    [
      "no object",
      undefined,
      "Thing: the configuration (dim, eps, base, gate, bias, headDim, label, inner, dilation, hook) is undefined; it must be an object",
    ],
    ["a number", 3, "is 3; it must be an object"],
    ["a missing key", {}, "Thing: dim is missing; it must be integer >= 1"],
    ["null", { dim: null }, "Thing: dim is null; it must be an integer at least 1"],
    ["an unknown key", { dim: 1, epz: 1 }, 'Thing: unknown key "epz"; did you mean "eps"?'],
    ["a key of the prototype", { dim: 1, toString: 1 }, 'Thing: unknown key "toString"'],
    ["a fraction", { dim: 1.5 }, "Thing: dim is 1.5; it must be an integer at least 1"],
    ["NaN", { dim: 1, eps: NaN }, "Thing: eps is NaN; it must be a finite number at least 0"],
    [
      "a bound that is not included",
      { dim: 1, base: 0 },
      "Thing: base is 0; it must be a finite number above 0",
    ],
    ["a flag of a wrong kind", { dim: 1, bias: 1 }, "Thing: bias is 1; it must be true or false"],
    ["a wrong choice", { dim: 1, gate: "gelou" }, '(did you mean "gelu"?)'],
    [
      "a nested key",
      { dim: 1, inner: { dept: 1 } },
      'Thing: inner: unknown key "dept"; did you mean "depth"?',
    ],
    [
      "an item of a list",
      { dim: 1, dilation: [1, 0] },
      "Thing: dilation[1] is 0; it must be an integer at least 1",
    ],
    [
      "a list that is too short",
      { dim: 1, dilation: [] },
      "it must be a list of 1 or more, each integer >= 1",
    ],
    ["text of a wrong kind", { dim: 1, label: 3 }, "Thing: label is 3; it must be text"],
    [
      "a hook that is not a function",
      { dim: 1, hook: {} },
      "Thing: hook is an object; it must be a function",
    ],
  ];
  for (const [title, config, message] of wrong)
    it(`refuses ${title}`, () => {
      expect(() => THING.read(config as Thing)).toThrow(ConfigError);
      expect(() => THING.read(config as Thing)).toThrow(message);
    });

  it("names the caller that it is given", () => {
    expect(() => THING.read({ dim: 0 }, "config.json: layers[0]")).toThrow(
      "config.json: layers[0]: dim is 0",
    );
  });

  it("lists its keys for a README's table", () => {
    expect(THING.rows().slice(0, 2)).toEqual([
      { key: "dim", rule: "integer >= 1", default: "required", doc: "Width." },
      { key: "eps", rule: "number >= 0", default: "0.000001", doc: "Added to the mean square." },
    ]);
    expect(THING.rows().find(({ key }) => key === "headDim")?.default).toBe("dim / 4");
  });
});
