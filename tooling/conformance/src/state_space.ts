import type { Runner } from "./runner.js";

export const stateSpace: Readonly<Record<string, Runner>> = {};
