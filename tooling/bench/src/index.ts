export { normals, maxError, normError, type HostTensor, type Inputs } from "./data.js";
export { measureLimits, type Limits } from "./limits.js";
export { median } from "./timing.js";
export { type Suite } from "./suites.js";
