import { expectInteger, integer, listOf } from "@x/kernels";

const CANDIDATES = listOf(integer("A block.", { min: 0 }), "Blocks to draw from.");

const wrap = Math.imul;

/** The finaliser of MurmurHash3, on unsigned 32-bit integers. @throws ConfigError */
export function mix32(x: number): number {
  expectInteger("mix32", "x", x);
  let h = x >>> 0;
  h = wrap(h ^ (h >>> 16), 0x85ebca6b) >>> 0;
  h = wrap(h ^ (h >>> 13), 0xc2b2ae35) >>> 0;
  return (h ^ (h >>> 16)) >>> 0;
}

/** `count` of the candidates, drawn without replacement from the stream of (seed, head, row). @throws ConfigError */
export function drawBlocks(
  seed: number,
  head: number,
  row: number,
  candidates: readonly number[],
  count: number,
): number[] {
  const who = "drawBlocks";
  for (const [name, n] of Object.entries({ seed, head, row })) expectInteger(who, name, n);
  expectInteger(who, "count", count, 0);
  CANDIDATES.check(who, "candidates", candidates);
  let state = mix32(mix32(mix32(seed) ^ ((head + 0x9e3779b9) >>> 0)) ^ ((row + 0x7f4a7c15) >>> 0));
  const list = [...candidates];
  const taken = Math.min(count, list.length);
  for (let t = 0; t < taken; t++) {
    state = (state + 0x9e3779b9) >>> 0;
    const u = t + (mix32(state) % (list.length - t));
    [list[t], list[u]] = [list[u]!, list[t]!];
  }
  return list.slice(0, taken);
}
