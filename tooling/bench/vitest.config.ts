import { gpuProject } from "../../vitest.shared.js";

export default gpuProject("bench");
