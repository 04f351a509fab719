import { isRecord, type JsonReader } from "../json_reader.js";
import { MAX_DEPTH } from "./normalizer.js";

/** Tokens that are put around a text. */
export interface Template {
  before: number[];
  after: number[];
}

export function template(
  r: JsonReader,
  where: string,
  value: unknown,
  id: (token: string) => number | undefined,
  depth = 0,
): Template {
  const none = { before: [], after: [] };
  if (value === null || value === undefined) return none;
  if (depth > MAX_DEPTH) r.fail(where, "is nested too deeply");
  const step = r.object(where, value);
  const type = r.string(`${where}.type`, step["type"]);
  switch (type) {
    case "ByteLevel":
      return none;
    case "Sequence":
      return r
        .array(`${where}.processors`, step["processors"])
        .map((s, i) => template(r, `${where}.processors[${i}]`, s, id, depth + 1))
        .reduce<Template>(
          (a, b) => ({ before: [...b.before, ...a.before], after: [...a.after, ...b.after] }),
          none,
        );
    case "TemplateProcessing": {
      const out: Template = { before: [], after: [] };
      let seen = false;
      r.array(`${where}.single`, step["single"]).forEach((item, i) => {
        const at = `${where}.single[${i}]`;
        const entry = r.object(at, item);
        if (isRecord(entry["Sequence"])) {
          seen = true;
          return;
        }
        const token = r.string(
          `${at}.SpecialToken.id`,
          r.object(`${at}.SpecialToken`, entry["SpecialToken"])["id"],
        );
        const found = id(token);
        if (found === undefined)
          r.fail(`${at}.SpecialToken.id`, `is ${JSON.stringify(token)}, which is not a token`);
        out[seen ? "after" : "before"].push(found);
      });
      return out;
    }
    case "RobertaProcessing":
    case "BertProcessing": {
      const token = (key: string): number => {
        const [name] = r.array(`${where}.${key}`, step[key]);
        return id(r.string(`${where}.${key}[0]`, name)) ?? r.fail(`${where}.${key}`, "is not a token");
      };
      return { before: [token("cls")], after: [token("sep")] };
    }
    default:
      return r.unsupported(`${where}.type`, type);
  }
}
