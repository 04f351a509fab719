import type { Encoding, Factory } from "../contract.js";
import { alibi } from "./alibi.js";
import { deberta } from "./deberta.js";
import { learned } from "./learned.js";
import { none } from "./none.js";
import { rope } from "./rope.js";
import { ropeLearned } from "./rope_learned.js";
import { shaw } from "./shaw.js";
import { sinusoidal } from "./sinusoidal.js";
import { t5 } from "./t5.js";
import { transformerXl } from "./transformer_xl.js";
import { xpos } from "./xpos.js";

/** Encodings of position by type. */
export const ENCODINGS: Readonly<Record<string, Factory<Encoding>>> = {
  none,
  nope: none,
  learned,
  sinusoidal,
  shaw,
  transformerXl,
  deberta,
  t5,
  alibi,
  rope,
  ropeLearned,
  xpos,
};
