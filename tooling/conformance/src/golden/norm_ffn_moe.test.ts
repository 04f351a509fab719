import { describe } from "vitest";
import { useGpu } from "@x/testing";
import { checkCases, files } from "./check_cases.js";

describe("golden cases of norms, feed-forward networks and mixtures", () => {
  checkCases(
    useGpu(),
    files.filter(({ area }) => ["norm", "ffn", "moe"].includes(area)),
  );
});
