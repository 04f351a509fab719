import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { attention, attentionOutputs } from "@x/attention";
import { repeat, type Gpu, type RelativeIndex, type ScoreModifier, type Tensor } from "@x/kernels";
import {
  alibi,
  debertaDisentangled,
  RotaryEmbedding,
  shawIndex,
  shawKeys,
  shawValues,
  t5Bias,
  t5Index,
  transformerXlRelative,
  Xpos,
} from "@x/positional";
import { numbers, relativeError, useGpu } from "@x/testing";

interface Shape {
  readonly heads: number;
  readonly headDim: number;
  readonly scale: number;
  readonly causal: boolean;
  /** Bounds of query position - key position. */
  readonly minDistance: number;
  readonly maxDistance: number;
}

interface Terms {
  readonly q?: Tensor;
  readonly k?: Tensor;
  readonly scale?: number;
  readonly modifiers?: readonly ScoreModifier[];
  readonly values?: { readonly index: RelativeIndex; add(out: Tensor, sums: Tensor): Tensor };
}

/** What an encoding makes of q [batch, heads, queries, headDim] at positions `at` and k at positions `from`. */
type Encoding = (q: Tensor, k: Tensor, at: number[], from: number[], shape: Shape) => Terms;

const parameter = (gpu: Gpu, shape: number[], seed: number): Tensor =>
  gpu.tensor(
    numbers(
      shape.reduce((a, b) => a * b, 1),
      seed,
    ),
    shape,
  );

const turned =
  (
    layout: "half" | "interleaved",
    scaling?: ConstructorParameters<typeof RotaryEmbedding>[0]["scaling"],
  ): Encoding =>
  (q, k, at, from, { headDim }) => {
    const rope = new RotaryEmbedding({ headDim, layout, ...(scaling ? { scaling } : {}) });
    q.gpu.currentScope?.endings.push(() => {
      rope.dispose();
    });
    return { q: rope.apply(q, { positions: at }), k: rope.apply(k, { positions: from }) };
  };

const ENCODINGS: Readonly<Record<string, Encoding>> = {
  "no encoding": () => ({}),
  RoPE: turned("half"),
  "RoPE, neighbours": turned("interleaved"),
  YaRN: turned("half", { type: "yarn", factor: 4, originalMaxPositionEmbeddings: 64 }),
  xPos: (q, k, at, from, { headDim }) => {
    const xpos = new Xpos({ headDim });
    q.gpu.currentScope?.endings.push(() => {
      xpos.dispose();
    });
    const center = 40;
    return {
      q: xpos.apply(q, "query", { positions: at, center }),
      k: xpos.apply(k, "key", { positions: from, center }),
    };
  },
  ALiBi: (q, _k, _at, _from, { heads }) => ({ modifiers: [alibi(q.gpu, heads)] }),
  T5: (q, _k, _at, _from, { heads, causal }) => ({
    scale: 1,
    modifiers: [
      t5Bias(
        parameter(q.gpu, [8, heads], 5),
        t5Index({ numBuckets: 8, maxDistance: 12, bidirectional: !causal }),
      ),
    ],
  }),
  Shaw: (q, _k, _at, _from, { headDim, scale }) => {
    const index = shawIndex(3);
    const relValue = parameter(q.gpu, [7, headDim], 6);
    return {
      modifiers: [shawKeys(q, { relKey: parameter(q.gpu, [7, headDim], 7), index, scale })],
      values: { index, add: (out, sums) => shawValues(out, { weightSums: sums, relValue }) },
    };
  },
  "Transformer-XL": (q, _k, _at, _from, { heads, headDim, scale, minDistance, maxDistance }) => {
    const { query, modifier } = transformerXlRelative(q, {
      relProj: parameter(q.gpu, [heads * headDim, 6], 8),
      contentBias: parameter(q.gpu, [heads, headDim], 9),
      positionBias: parameter(q.gpu, [heads, headDim], 10),
      modelDim: 6,
      clampLength: 9,
      scale,
      minDistance,
      maxDistance,
    });
    return { q: query, modifiers: [modifier] };
  },
  DeBERTa: (q, k, _at, _from, { heads, headDim }) =>
    debertaDisentangled(q, repeat(k, heads / k.shape[1]!, 1), {
      relEmbedding: parameter(q.gpu, [12, 5], 11),
      posKeyWeight: parameter(q.gpu, [heads * headDim, 5], 12),
      posQueryWeight: parameter(q.gpu, [heads * headDim, 5], 13),
      maxDistance: 16,
      positionBuckets: 6,
    }),
};

interface Case {
  readonly batch: number;
  readonly kvHeads: number;
  readonly group: number;
  readonly seq: number;
  readonly pairs: number;
  readonly causal: boolean;
  readonly first: number;
  readonly shift: number;
}

const cases = fc.record<Case>({
  batch: fc.integer({ min: 1, max: 2 }),
  kvHeads: fc.integer({ min: 1, max: 3 }),
  group: fc.integer({ min: 1, max: 3 }),
  seq: fc.integer({ min: 1, max: 37 }),
  pairs: fc.integer({ min: 1, max: 5 }),
  causal: fc.boolean(),
  first: fc.nat(36),
  shift: fc.nat(800),
});

describe("attention with every encoding", () => {
  const device = useGpu();

  /** Attention of the queries first.. of a sequence that starts at position `shift`. */
  function attend(
    encoding: Encoding,
    { batch, kvHeads, group, seq, pairs, causal }: Case,
    { first = 0, shift, byPositions }: { first?: number; shift: number; byPositions: boolean },
  ): Promise<ArrayLike<number>> {
    const { gpu } = device;
    const [heads, headDim, queries] = [kvHeads * group, 2 * pairs, seq - first];
    const out = gpu.scope(() => {
      const all = parameter(gpu, [batch, heads, seq, headDim], 1);
      const rows = Array.from({ length: batch * heads }, (_, n) =>
        Array.from({ length: queries }, (_, i) => n * seq + first + i),
      ).flat();
      const data = numbers(all.size, 1);
      const q0 = gpu.tensor(
        rows.flatMap((row) => Array.from(data.slice(row * headDim, (row + 1) * headDim))),
        [batch, heads, queries, headDim],
      );
      const k0 = parameter(gpu, [batch, kvHeads, seq, headDim], 2);
      const v = parameter(gpu, [batch, kvHeads, seq, headDim], 3);
      const from = Array.from({ length: seq }, (_, j) => j + shift);
      const at = from.slice(first);
      const range = { minDistance: first - (seq - 1), maxDistance: seq - 1 };
      const scale = headDim ** -0.5;
      const terms = encoding(q0, k0, at, from, { heads, headDim, scale, causal, ...range });
      const repeated = (list: number[]): Tensor =>
        gpu.tensor(Array.from({ length: batch }, () => list).flat(), [batch, list.length], "i32");
      const options = {
        causal,
        scale: terms.scale ?? scale,
        modifiers: terms.modifiers ?? [],
        ...(byPositions
          ? { positions: { query: repeated(at), key: repeated(from), ...range } }
          : { queryOffset: first }),
      };
      const [q, k] = [terms.q ?? q0, terms.k ?? k0];
      if (!terms.values) return attention(q, k, v, options);
      const both = attentionOutputs(q, k, v, { ...options, weightSums: terms.values.index });
      return terms.values.add(both.out, both.weightSums!);
    });
    return out.read().finally(() => {
      out.dispose();
    });
  }

  it.each(Object.keys(ENCODINGS))(
    "%s: a shift of all positions changes nothing, and queries at an offset are rows of the whole",
    { timeout: 600_000 },
    async (name) => {
      const encoding = ENCODINGS[name]!;
      await fc.assert(
        fc.asyncProperty(cases, async (c) => {
          const { batch, kvHeads, group, seq, pairs, shift } = c;
          const whole = await attend(encoding, c, { shift: 0, byPositions: false });
          const moved = await attend(encoding, c, { shift, byPositions: true });
          expect(relativeError(moved, whole), "shifted").toBeLessThan(3e-5);
          const first = c.first % seq;
          const [line, width] = [seq * 2 * pairs, 2 * pairs];
          const rows = Array.from({ length: batch * kvHeads * group }, (_, n) =>
            Array.from(whole).slice(n * line + first * width, (n + 1) * line),
          ).flat();
          for (const byPositions of [false, true]) {
            const part = await attend(encoding, c, { first, shift: 0, byPositions });
            expect(relativeError(part, rows), "at an offset").toBeLessThan(2e-5);
          }
        }),
        { numRuns: 6, seed: 7, endOnFailure: true },
      );
    },
  );
});
