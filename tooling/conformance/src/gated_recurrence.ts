import type { Runner } from "./runner.js";

export const gatedRecurrence: Readonly<Record<string, Runner>> = {};
