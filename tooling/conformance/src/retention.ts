import type { Runner } from "./runner.js";

export const retention: Readonly<Record<string, Runner>> = {};
