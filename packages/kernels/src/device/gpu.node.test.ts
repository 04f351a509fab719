import { expect, it } from "vitest";
import { awaitOnCpu } from "./gpu.node.js";

const after = (ms: number): Promise<number> => new Promise((resolve) => setTimeout(resolve, ms, ms));

it("waiting on a software adapter leaves the core to it, passes values and errors, and ends", async () => {
  const before = process.cpuUsage();
  expect(await Promise.all([awaitOnCpu(after(300)), awaitOnCpu(after(200))])).toEqual([300, 200]);
  await expect(awaitOnCpu(after(1).then(() => Promise.reject(new Error("lost"))))).rejects.toThrow("lost");
  const { user, system } = process.cpuUsage(before);
  // Spinning would take all of the 300 ms.
  expect((user + system) / 1000).toBeLessThan(200);
});
