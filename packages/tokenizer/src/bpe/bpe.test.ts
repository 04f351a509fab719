import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BYTE_ALPHABET, BYTE_SYMBOLS } from "../pattern/byte_symbols.js";
import { BpeTokenizer, fromTokenizerJson, GPT2_PATTERN, toTokenizerJson, TokenizerError } from "../index.js";
import { compilePattern } from "../pattern/pattern.js";
import { learnMerges } from "./train.js";

const TEXT = `
The cat sat on the mat, and the dog sat by the door. It's 2026: 12345 cats don't mind.
naïve café — “quotes”, Ελληνικά, Русский, 中文字符, ประเทศไทย, 👩‍👩‍👧 and é as e\u0301.
    four spaces\tand a tab;   three  two one\r\n\r\nthe end
`.repeat(3);

const trained = BpeTokenizer.train([TEXT], { vocabSize: 400, specialTokens: ["<|end|>", "<|pad|>"] });

/** Byte-level BPE word by word as its paper says it: the best pair of all, every time from the start. */
function slowEncode(text: string, merges: readonly (readonly [string, string])[]): string[] {
  const rank = new Map(merges.map((m, i) => [m.join(" "), i]));
  return [...text.matchAll(compilePattern("test", GPT2_PATTERN))].flatMap(([word]) => {
    let symbols = Array.from(new TextEncoder().encode(word), (byte) => BYTE_SYMBOLS[byte]!);
    for (;;) {
      const ranks = symbols.slice(1).map((s, i) => rank.get(`${symbols[i]!} ${s}`) ?? Infinity);
      const best = Math.min(Infinity, ...ranks);
      if (best === Infinity) return symbols;
      const next: string[] = [];
      for (let i = 0; i < symbols.length; i++) {
        const joins = ranks[i] === best && i + 1 < symbols.length;
        next.push(joins ? symbols[i]! + symbols[++i]! : symbols[i]!);
      }
      symbols = next;
    }
  });
}

/** Training as its rule says it: count all pairs afresh before every merge. */
function slowTrain(text: string, size: number): string[] {
  const tokens = [...BYTE_ALPHABET];
  const words = [...text.matchAll(compilePattern("test", GPT2_PATTERN))].map(([word]) =>
    Array.from(new TextEncoder().encode(word), (byte) => tokens.indexOf(BYTE_SYMBOLS[byte]!)),
  );
  const merges: string[] = [];
  while (tokens.length < size) {
    const counts = new Map<number, number>();
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = word[i]! * 65536 + word[i + 1]!;
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    const [best] = [...counts].sort(([a, m], [b, n]) => n - m || a - b);
    if (!best) break;
    const [left, right] = [Math.floor(best[0] / 65536), best[0] % 65536];
    const joined = tokens[left]! + tokens[right]!;
    merges.push(`${tokens[left]!} ${tokens[right]!}`);
    let id = tokens.indexOf(joined);
    if (id < 0) id = tokens.push(joined) - 1;
    for (const word of words)
      for (let i = 0; i + 1 < word.length; i++)
        if (word[i] === left && word[i + 1] === right) word.splice(i, 2, id);
  }
  return merges;
}

const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 60 }),
  fc.string({ unit: "grapheme", maxLength: 40 }),
  fc
    .array(fc.constantFrom("the", " cat", "  ", "\n", "é", "😀", "<|end|>", "'s", "12", "\ud800"), {
      maxLength: 20,
    })
    .map((parts) => parts.join("")),
);
const wellFormed = (text: string): string =>
  new TextDecoder().decode(new TextEncoder().encode(`x${text}`)).slice(1);

describe("byte-level BPE", () => {
  it("decoding gives any text back, at once and token by token", () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const ids = trained.encode(text);
        expect(trained.decode(ids)).toBe(wellFormed(text));
        const stream = trained.decoder();
        expect(ids.map((id) => stream.push(id)).join("") + stream.end()).toBe(wellFormed(text));
      }),
      { numRuns: 300, seed: 1 },
    );
  });

  it("encodes as the plain rule does", () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const ids = trained.encode(text, { allowedSpecial: "none" });
        expect(ids.map((id) => trained.idToToken(id))).toEqual(slowEncode(text, trained.options.merges));
      }),
      { numRuns: 300, seed: 2 },
    );
  });

  it("long words, which go through a heap, merge as short ones do", () => {
    const merges = trained.options.merges;
    for (const word of ["thethe".repeat(40), "sat".repeat(99), "aaaa".repeat(50), "中文".repeat(30)])
      expect(trained.encode(word).map((id) => trained.idToToken(id))).toEqual(slowEncode(word, merges));
  });

  it("learns what the plain rule learns", () => {
    const alphabet = fc.constantFrom("a", "b", "c", " ");
    fc.assert(
      fc.property(
        fc.array(alphabet, { minLength: 2, maxLength: 120 }),
        fc.integer({ min: 1, max: 30 }),
        (chars, n) => {
          const text = chars.join("");
          const { merges, tokens } = learnMerges([text], compilePattern("test", GPT2_PATTERN), n);
          expect(merges.map((m) => m.join(" "))).toEqual(slowTrain(text, 256 + n));
          expect(new Set(tokens).size).toBe(tokens.length);
        },
      ),
      { numRuns: 200, seed: 3 },
    );
  });

  it("learns from many texts, stops at rare pairs, and refuses a vocabulary below the bytes", () => {
    const texts = ["low lower lowest", "new newer newest"];
    expect(BpeTokenizer.train(texts, { vocabSize: 300, minFrequency: 2 }).vocabSize).toBeLessThan(300);
    const all = BpeTokenizer.train(texts, { vocabSize: 262, specialTokens: ["<s>"], bosToken: "<s>" });
    expect(all.vocabSize).toBe(262);
    expect(all.bosTokenId).toBe(261);
    expect(() => BpeTokenizer.train(texts, { vocabSize: 256, specialTokens: ["<s>"] })).toThrow(
      /vocabSize is 256; it must be an integer of at least 257/,
    );
  });

  it("special tokens: all, none, or the listed ones; left out when decoding on request", () => {
    const [end, pad] = [trained.tokenToId("<|end|>")!, trained.tokenToId("<|pad|>")!];
    const text = "the<|end|><|pad|>cat";
    expect(trained.encode(text).filter((id) => id === end || id === pad)).toEqual([end, pad]);
    expect(trained.encode(text, { allowedSpecial: ["<|pad|>"] })).not.toContain(end);
    const none = trained.encode(text, { allowedSpecial: "none" });
    expect(none).not.toContain(end);
    expect(none).not.toContain(pad);
    expect(trained.decode(none)).toBe(text);
    expect(trained.decode(trained.encode(text), { skipSpecialTokens: true })).toBe("thecat");
  });

  it("a stream holds back characters that are not complete, and ends them as U+FFFD", () => {
    const bytes = Array.from(new TextEncoder().encode("😀"), (b) => trained.tokenToId(BYTE_SYMBOLS[b]!)!);
    const stream = trained.decoder();
    expect(bytes.map((id) => stream.push(id))).toEqual(["", "", "", "😀"]);
    expect(stream.push(bytes[0]!)).toBe("");
    expect(stream.end()).toBe("\ufffd");
  });

  it("an id that no token has gives nothing, at once and in a stream; what is not an id is refused", () => {
    const [a, b] = [trained.tokenToId("a")!, trained.tokenToId("b")!];
    expect(trained.decode([a, 400, b, 2 ** 40])).toBe("ab");
    const stream = trained.decoder();
    expect([stream.push(a), stream.push(400), stream.push(b), stream.end()]).toEqual(["a", "", "b", ""]);
    for (const id of [-1, 1.5, NaN, "1" as unknown as number])
      expect(() => trained.decode([id]), String(id)).toThrow(TokenizerError);
  });

  it("a written tokenizer.json reads back to the same tokenizer", () => {
    for (const pattern of [GPT2_PATTERN, "\\p{N}{1,3}| ?\\p{L}+|[^\\p{L}\\p{N}]+"]) {
      const tokenizer = BpeTokenizer.train([TEXT], { vocabSize: 350, specialTokens: ["<|end|>"], pattern });
      const again = fromTokenizerJson(JSON.parse(JSON.stringify(toTokenizerJson(tokenizer, pattern))));
      expect(again.encode(TEXT)).toEqual(tokenizer.encode(TEXT));
      expect(again.vocabSize).toBe(tokenizer.vocabSize);
    }
  });

  it("time is linear in the text's length: prose, one endless word, white space, added tokens", () => {
    const strip = new BpeTokenizer({
      ...trained.options,
      addedTokens: [
        { id: trained.vocabSize, content: "<mask>", lstrip: true, rstrip: true },
        ...trained.options.addedTokens!,
      ],
    });
    const texts: Record<string, [BpeTokenizer, string]> = {
      prose: [trained, TEXT],
      "one word": [trained, "abthe"],
      "white space": [strip, " \t"],
      "added tokens": [strip, "<mask> <|end|> "],
    };
    for (const [name, [tokenizer, unit]] of Object.entries(texts)) {
      // Processor time: other work on the machine does not count.
      const time = (text: string): number => {
        const start = process.cpuUsage();
        tokenizer.encode(text);
        return process.cpuUsage(start).user / 1000;
      };
      const [small, large] = [60_000, 480_000].map((length) =>
        unit.repeat(Math.ceil(length / unit.length)),
      ) as [string, string];
      // The best of several: compilation and garbage collection make single runs several times as long.
      let [short, long] = [Infinity, Infinity];
      for (let i = 0; i < 3 || (long / short >= 24 && i < 25); i++) {
        short = Math.max(3, Math.min(short, time(small)));
        long = Math.min(long, time(large));
      }
      // Eight times the text; quadratic time would be 64 times as long.
      expect(long / short, `${name}: ${short} ms, ${long} ms`).toBeLessThan(24);
    }
  });
});
