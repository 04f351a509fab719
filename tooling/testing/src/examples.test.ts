import { describe, expect, it } from "vitest";
import { outputFaults } from "./examples.js";

describe("the check of an example's output", () => {
  const takes = (promise: string, output: string): void => {
    expect(outputFaults(`console.log(x); // prints ${promise}`, output), promise).toEqual([]);
  };
  const refuses = (promise: string, output: string): void => {
    expect(outputFaults(`console.log(x); // prints ${promise}`, output), promise).toHaveLength(1);
  };

  it("takes numbers to the digits that are written, and integers exactly", () => {
    takes("[0.84, 1.0]", "Float32Array(2) [ 0.8414709568023682, 1.0000001 ]\n");
    takes("[1, 8, 16]", "[ 1, 8, 16 ]\n");
    takes("-1.5e-7", "-1.52e-7");
    refuses("[0.84, 1.0]", "Float32Array(2) [ 0.8614709568023682, 1.0000001 ]\n");
    refuses("[1, 8, 16]", "[ 1, 8, 32 ]\n");
    refuses("1", "1.2");
    refuses("0.5", "-0.5");
  });

  it("takes text that runs over several lines, and anything for three dots", () => {
    takes("loss 0.01 ... [1, 2]", "loss 0.0102\nloss 0.5\n[\n  1,\n  2\n]\n");
    takes("[ 'a', \"b\" ]", "[ 'a', 'b' ]");
    refuses("loss 0.01 ... [1, 3]", "loss 0.0102\nloss 0.5\n[\n  1,\n  2\n]\n");
  });

  it("asks for several lines in their order", () => {
    const example = "a // prints 1\nb // prints 2";
    expect(outputFaults(example, "1\n2\n")).toEqual([]);
    expect(outputFaults(example, "2\n1\n")).toHaveLength(1);
  });

  it("refuses what makes no sense, and an example that does not say what it prints", () => {
    for (const output of ["[ NaN ]", "undefined", "-Infinity", "[object Object]"])
      expect(outputFaults("x // prints ...", output), output).toHaveLength(1);
    expect(outputFaults("console.log(1)", "1")).toHaveLength(1);
  });
});
