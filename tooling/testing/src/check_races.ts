/** Before every test file: no shader is compiled whose invocations may meet in workgroup memory without a barrier. */
import { globals } from "webgpu";
import { workgroupRaces } from "./workgroup_races.js";

/** Kernels whose indices keep invocations apart by arithmetic that the check does not know. */
const APART: Readonly<Record<string, string>> = {
  sortLocal: "each t has a pair i, j of its own",
  spdFactorDiagonal: "column j is read, and columns after j are written",
};

interface Device {
  createShaderModule(this: Device, descriptor: GPUShaderModuleDescriptor): GPUShaderModule;
}
const device = (globals as { readonly GPUDevice: { readonly prototype: Device } }).GPUDevice.prototype;
// eslint-disable-next-line @typescript-eslint/unbound-method -- it is called with its device below
const create = device.createShaderModule;
const checked = new Set<string>();

device.createShaderModule = function (descriptor) {
  const { code, label = "" } = descriptor;
  const name = label.split(" ")[0]!;
  if (!checked.has(code) && !Object.hasOwn(APART, name)) {
    checked.add(code);
    const [race] = workgroupRaces(code);
    if (race)
      throw new Error(
        `${name}: workgroup memory ${race.variable} has a ${race.what} without a barrier between ` +
          `(lines ${race.lines.join(" and ")}, indices ${race.indices.join(" and ")})`,
      );
  }
  return create.call(this, descriptor);
};
