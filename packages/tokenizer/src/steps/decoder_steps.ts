import { SYMBOL_BYTES } from "../pattern/byte_symbols.js";
import { UnsupportedStepError } from "../errors.js";
import type { JsonReader } from "../json_reader.js";
import { MAX_DEPTH, splitPattern } from "./normalizer.js";

/** A step from tokens to text, with its state: takes tokens in their order, and gives pieces as soon as they are sure. */
export interface DecodeStep {
  take(token: string, added: boolean): string[];
  end(): string[];
}

/** Makes the steps of a text, in their order. */
export type DecodeSteps = readonly (() => DecodeStep)[];

const encoder = new TextEncoder();

/** The bytes of a token in byte symbols; a token that holds another character stands for itself. */
export function tokenBytes(token: string, added: boolean): Uint8Array {
  if (added) return encoder.encode(token);
  const bytes: number[] = [];
  for (const char of token) {
    const byte = SYMBOL_BYTES.get(char);
    if (byte === undefined) return encoder.encode(token);
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

/** Bytes behind symbols become text; what is not UTF-8 becomes U+FFFD. */
export function byteLevelStep(): DecodeStep {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  return {
    take: (token, added) => [decoder.decode(tokenBytes(token, added), { stream: true })],
    end: () => [decoder.decode()],
  };
}

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

/** Tokens such as <0xE4> are bytes; each byte that is not part of a UTF-8 character becomes U+FFFD. */
function byteFallbackStep(): DecodeStep {
  let held: number[] = [];
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const whole = (bytes: readonly number[]): string | undefined => {
    try {
      return strict.decode(Uint8Array.from(bytes));
    } catch {
      return undefined;
    }
  };
  const need = (lead: number): number => (lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4);
  /** Characters that are complete; at the end what is left, too. */
  const drain = (final: boolean): string => {
    let out = "";
    while (held.length > 0) {
      const size = need(held[0]!);
      const tail = held.slice(1, size);
      if (!final && held.length < size && held[0]! >= 0xc2 && tail.every((b) => b >= 0x80 && b < 0xc0)) break;
      const char = held.length >= size ? whole(held.slice(0, size)) : undefined;
      out += char ?? "\ufffd";
      held = held.slice(char === undefined ? 1 : size);
    }
    return out;
  };
  return {
    take: (token) => {
      const byte = BYTE_TOKEN.exec(token)?.[1];
      if (byte === undefined) return [drain(true), token];
      held.push(Number.parseInt(byte, 16));
      return [drain(false)];
    },
    end: () => [drain(true)],
  };
}

/** Take at most so many of a character off both ends: of each token, or of the whole text where it has been joined. */
function stripStep(content: string, start: number, stop: number, fused: boolean): DecodeStep {
  let left = start;
  let held = "";
  const head = (text: string): string => {
    let at = 0;
    while (left > 0 && text.startsWith(content, at)) {
      at += content.length;
      left--;
    }
    if (at < text.length) left = 0;
    return text.slice(at);
  };
  const tail = (text: string): string => {
    let end = text.length;
    for (let n = 0; n < stop && text.slice(0, end).endsWith(content); n++) end -= content.length;
    return text.slice(0, end);
  };
  if (!fused)
    return {
      take: (token) => {
        left = start;
        return [tail(head(token))];
      },
      end: () => [],
    };
  return {
    take: (text) => {
      held += head(text);
      const sure = Math.max(0, held.length - stop * content.length);
      const out = held.slice(0, sure);
      held = held.slice(sure);
      return [out];
    },
    end: () => [tail(held)],
  };
}

/** A mark such as ▁ is a space; in the first token it is nothing where one is put before a text. */
function metaspaceStep(replacement: string, prefix: boolean): DecodeStep {
  let first = true;
  return {
    take: (token) => {
      const out = token.replaceAll(replacement, first && prefix ? "" : " ");
      first = false;
      return [out];
    },
    end: () => [],
  };
}

const plainStep =
  (change: (token: string) => string): (() => DecodeStep) =>
  () => ({
    take: (token) => [change(token)],
    end: () => [],
  });

/** True where a mark stands for a space that is put before every text, or before the first piece of one. */
export function metaspacePrefix(
  r: JsonReader,
  where: string,
  step: Readonly<Record<string, unknown>>,
): "always" | "first" | "never" {
  const scheme = step["prepend_scheme"];
  if (scheme === undefined || scheme === null)
    return r.flag(`${where}.add_prefix_space`, step["add_prefix_space"], true) ? "always" : "never";
  if (scheme === "always" || scheme === "first" || scheme === "never") return scheme;
  return r.fail(`${where}.prepend_scheme`, 'must be "always", "first" or "never"');
}

/** How tokens become text. Undefined where the file names no decoder. */
export function decoderSteps(
  r: JsonReader,
  where: string,
  value: unknown,
  state: { fused: boolean } = { fused: false },
  depth = 0,
): DecodeSteps | undefined {
  if (value === null || value === undefined) return undefined;
  if (depth > MAX_DEPTH) r.fail(where, "is nested too deeply");
  const step = r.object(where, value);
  const type = r.string(`${where}.type`, step["type"]);
  switch (type) {
    case "ByteLevel":
      return [byteLevelStep];
    case "ByteFallback":
      return [byteFallbackStep];
    case "Fuse":
      state.fused = true;
      return [];
    case "Strip": {
      const content = r.string(`${where}.content`, step["content"]);
      const count = (key: string): number => {
        const n = step[key] ?? 0;
        return Number.isSafeInteger(n) && (n as number) >= 0
          ? (n as number)
          : r.fail(`${where}.${key}`, "must be an integer of at least 0");
      };
      if (content === "") r.fail(`${where}.content`, "is empty");
      const [start, stop, fused] = [count("start"), count("stop"), state.fused];
      return [() => stripStep(content, start, stop, fused)];
    }
    case "Replace": {
      const content = r.string(`${where}.content`, step["content"]);
      const regex = splitPattern(r, `${where}.pattern`, step["pattern"]);
      if (state.fused)
        throw new UnsupportedStepError(
          r.file,
          `${where} replaces in the joined text, which is not supported`,
        );
      return [plainStep((token) => token.replace(regex, () => content))];
    }
    case "Metaspace": {
      const mark = r.string(`${where}.replacement`, step["replacement"] ?? "▁");
      const prefix = metaspacePrefix(r, where, step) !== "never";
      return [() => metaspaceStep(mark, prefix)];
    }
    case "Sequence":
      return r
        .array(`${where}.decoders`, step["decoders"])
        .flatMap((s, i) => decoderSteps(r, `${where}.decoders[${i}]`, s, state, depth + 1) ?? []);
    default:
      return r.unsupported(`${where}.type`, type);
  }
}

/** Runs tokens through steps. */
export class DecodeChain {
  readonly #steps: readonly DecodeStep[];
  constructor(steps: DecodeSteps) {
    this.#steps = steps.map((make) => make());
  }

  /** Text that a token makes sure. */
  push(token: string, added: boolean): string {
    return this.#run([token], added, 0);
  }

  /** What is left at the end. */
  end(): string {
    return this.#steps.map((step, i) => this.#run(step.end(), false, i + 1)).join("");
  }

  #run(tokens: readonly string[], added: boolean, from: number): string {
    let list = tokens;
    for (let i = from; i < this.#steps.length; i++)
      list = list.flatMap((token) => (token === "" ? [] : this.#steps[i]!.take(token, added)));
    return list.join("");
  }
}
