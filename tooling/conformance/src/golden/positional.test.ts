import { describe } from "vitest";
import { useGpu } from "@x/testing";
import { checkCases, files } from "./check_cases.js";

describe("golden cases of positional encodings", () => {
  checkCases(
    useGpu(),
    files.filter(({ area }) => area === "positional"),
  );
});
