import { describe } from "vitest";
import { useGpu } from "@x/testing";
import { attention, masks } from "../runners/attention.js";
import { checkCases, files, mechanismOf } from "./check_cases.js";

describe("golden cases of sequence mixers", () => {
  checkCases(
    useGpu(),
    files.filter(
      ({ area, path }) => area === "attention" && !(mechanismOf(path) in { ...attention, ...masks }),
    ),
  );
});
