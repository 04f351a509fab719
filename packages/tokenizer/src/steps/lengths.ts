import { isRecord, type JsonReader } from "../json_reader.js";
import { show } from "../arguments.js";
import type { Template } from "./template.js";

/** Ids of a text, cut and filled up as a file says. */
export interface Lengths {
  readonly truncation?: { readonly maxLength: number; readonly side: "left" | "right" } | undefined;
  readonly padding?:
    | {
        /** Length to fill up to; undefined is the text's. */
        readonly length: number | undefined;
        readonly multipleOf: number;
        readonly side: "left" | "right";
        readonly id: number;
      }
    | undefined;
}

export interface LengthOptions {
  /** Cut a text as the file's `truncation` says; default true. */
  readonly truncation?: boolean;
  /** Fill a text up as the file's `padding` says; default true. */
  readonly padding?: boolean;
}

/** The `truncation` and `padding` of a tokenizer.json. */
export function lengths(
  r: JsonReader,
  root: Readonly<Record<string, unknown>>,
  options: LengthOptions,
): Lengths {
  const integer = (where: string, value: unknown, least: number): number =>
    Number.isSafeInteger(value) && (value as number) >= least
      ? (value as number)
      : r.fail(where, `is ${show(value)}; it must be an integer of at least ${least}`);
  const side = (where: string, value: unknown): "left" | "right" => {
    if (value === undefined || value === "Right") return "right";
    return value === "Left" ? "left" : r.fail(where, `is ${show(value)}; it must be "Left" or "Right"`);
  };
  const out: { -readonly [K in keyof Lengths]: Lengths[K] } = {};
  if ((root["truncation"] ?? null) !== null && options.truncation !== false) {
    const step = r.object("truncation", root["truncation"]);
    if (step["strategy"] === "OnlySecond")
      r.fail("truncation.strategy", 'is "OnlySecond", which cuts a second text; there is one');
    out.truncation = {
      maxLength: integer("truncation.max_length", step["max_length"], 0),
      side: side("truncation.direction", step["direction"]),
    };
  }
  if ((root["padding"] ?? null) !== null && options.padding !== false) {
    const step = r.object("padding", root["padding"]);
    const { strategy = "BatchLongest" } = step;
    if (strategy !== "BatchLongest" && !isRecord(strategy))
      r.fail("padding.strategy", `is ${show(strategy)}; it must be "BatchLongest" or {"Fixed": length}`);
    out.padding = {
      length: isRecord(strategy) ? integer("padding.strategy.Fixed", strategy["Fixed"], 0) : undefined,
      multipleOf: integer("padding.pad_to_multiple_of", step["pad_to_multiple_of"] ?? 1, 1),
      side: side("padding.direction", step["direction"]),
      id: integer("padding.pad_id", step["pad_id"] ?? 0, 0),
    };
  }
  return out;
}

/** Ids of a text with what is put around it, cut so that the whole fits, then filled up. */
export function fit(ids: readonly number[], around: Template, { truncation, padding }: Lengths): number[] {
  const { before, after } = around;
  let kept = ids;
  if (truncation) {
    const room = Math.max(0, truncation.maxLength - before.length - after.length);
    if (kept.length > room)
      kept = truncation.side === "right" ? kept.slice(0, room) : kept.slice(kept.length - room);
  }
  const out = [...before];
  for (const id of kept) out.push(id);
  out.push(...after);
  if (!padding) return out;
  const least = Math.max(padding.length ?? out.length, 0);
  const length = Math.ceil(least / padding.multipleOf) * padding.multipleOf;
  const filling = new Array<number>(Math.max(0, length - out.length)).fill(padding.id);
  return padding.side === "right" ? out.concat(filling) : filling.concat(out);
}
