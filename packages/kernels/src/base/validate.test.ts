import { describe, expect, it } from "vitest";
import { ConfigError } from "./errors.js";
import { checkConfig, expectBoolean, expectInteger, expectNumber, expectOneOf } from "./validate.js";

type Check = (who: string, ...rest: never[]) => void;

describe("checks of options", () => {
  it.each<[Check, unknown[], string]>([
    [expectInteger, ["n", 1.5], "a: n is 1.5; it must be an integer"],
    [expectInteger, ["n", "3", 1], 'a: n is "3"; it must be an integer at least 1'],
    [expectInteger, ["n", 4, 0, 3], "a: n is 4; it must be an integer in 0..3"],
    [expectNumber, ["x", NaN], "a: x is NaN; it must be a finite number"],
    [expectNumber, ["x", -1, 0], "a: x is -1; it must be a finite number at least 0"],
    [expectNumber, ["x", 2, 0, 1], "a: x is 2; it must be a finite number in 0..1"],
    [expectNumber, ["x", 0, Number.MIN_VALUE], "a: x is 0; it must be a finite number above 0"],
    [
      expectNumber,
      ["x", null, Number.MIN_VALUE, 1],
      "a: x is null; it must be a finite number above 0, at most 1",
    ],
    [expectBoolean, ["flag", "yes"], 'a: flag is "yes"; it must be true or false'],
    [
      expectOneOf,
      ["kind", "geluu", ["relu", "gelu"]],
      'a: kind is "geluu"; it must be one of relu, gelu (did you mean "gelu"?)',
    ],
    [checkConfig, [{ hedas: 1 }, ["heads"]], 'a: unknown key "hedas"; did you mean "heads"? (known: heads)'],
    [checkConfig, [null, ["heads"]], "a: the configuration (heads) is null; it must be an object"],
    [checkConfig, ["heads", ["heads"]], 'a: the configuration (heads) is "heads"; it must be an object'],
  ])("%o of %j: who was given what, and the rule", (check, given, message) => {
    const run = (): void => {
      check("a", ...(given as never[]));
    };
    expect(run).toThrow(new ConfigError("a", message.slice("a: ".length)));
  });

  it("let pass what fits", () => {
    expectInteger("a", "n", -3);
    expectInteger("a", "n", 3, 3, 3);
    expectNumber("a", "x", 1e-300, Number.MIN_VALUE);
    expectBoolean("a", "flag", false);
    checkConfig("a", { heads: 1 }, ["heads"]);
  });
});
