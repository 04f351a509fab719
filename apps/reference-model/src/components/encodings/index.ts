import type { Encoding, Factory } from "../contract.js";
import { none } from "./none.js";
import { rope } from "./rope.js";

/** Encodings of position by type. */
export const ENCODINGS: Readonly<Record<string, Factory<Encoding>>> = { none, rope };
