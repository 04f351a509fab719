// What the browser test runs in the page: the exercise of every package, and golden cases over fetch.
import { goldenFiles, runFile, type CaseReport } from "@x/conformance";
import { openDevice } from "@x/kernels";
import { exercise } from "../consumer/exercise.js";
import type { Page } from "../src/page.js";

const page: Page = {
  async describe() {
    const gpu = await openDevice();
    const { subgroups, subgroupMinSize, subgroupMaxSize } = gpu.features;
    gpu.destroy();
    return { name: gpu.info.name, subgroups, sizes: [subgroupMinSize, subgroupMaxSize] };
  },
  exercise: (features) => exercise({ features }),
  async golden(features, filter) {
    const gpu = await openDevice({ fillWithNaN: true, features });
    const reports: CaseReport[] = [];
    try {
      for (const { area, path } of await goldenFiles("/golden"))
        if (path.includes(filter)) for await (const report of runFile(gpu, area, path)) reports.push(report);
    } finally {
      gpu.destroy();
    }
    return reports;
  },
};

Object.assign(globalThis, { page });
