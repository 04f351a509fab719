/**
 * GPT-2's printable stand-in for each byte: itself where it is printable, else the next free code point from 256 on.
 * Radford et al. 2019; `bytes_to_unicode` in the published encoder.
 */
const symbols: string[] = [];
for (let byte = 0, next = 256; byte < 256; byte++) {
  const printable =
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
  symbols.push(String.fromCodePoint(printable ? byte : next++));
}

/** Symbol of each byte. */
export const BYTE_SYMBOLS: readonly string[] = symbols;

/** Byte of each symbol. */
export const SYMBOL_BYTES: ReadonlyMap<string, number> = new Map(
  symbols.map((symbol, byte) => [symbol, byte]),
);

/** The 256 symbols in the order of their code points: the first ids of a trained vocabulary. */
export const BYTE_ALPHABET: readonly string[] = [...symbols].sort(
  (a, b) => a.codePointAt(0)! - b.codePointAt(0)!,
);

/** True for a byte that no UTF-8 text holds: c0, c1 and f5 to ff. */
export const neverInUtf8 = (byte: number): boolean => byte === 0xc0 || byte === 0xc1 || byte >= 0xf5;

const encoder = new TextEncoder();

/** A text as the symbols of its UTF-8 bytes. */
export function byteSymbols(text: string): string {
  let out = "";
  for (const byte of encoder.encode(text)) out += symbols[byte]!;
  return out;
}
