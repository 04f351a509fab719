import { concat, slice, type Tensor } from "@x/kernels";

/** Lengths of the pieces that a case must also hold for, one after the other with a cache. */
export function chunksOf(config: Readonly<Record<string, unknown>>): number[] | undefined {
  const { chunks, prefill } = config;
  if (Array.isArray(chunks)) return chunks as number[];
  return typeof prefill === "number" ? [prefill] : undefined;
}

/** Cut a sequence along an axis into pieces; the rest after the last goes one by one. */
export function pieces(length: number, chunks: readonly number[]): { start: number; end: number }[] {
  const out: { start: number; end: number }[] = [];
  let start = 0;
  for (const n of chunks) out.push({ start, end: (start += n) });
  while (start < length) out.push({ start, end: ++start });
  return out;
}

export const part = (t: Tensor, axis: number, { start, end }: { start: number; end: number }): Tensor =>
  slice(t, { axis, start, end });

export const join = (parts: readonly Tensor[], axis: number): Tensor =>
  parts.length === 1 ? parts[0]! : concat(parts, axis);
