import { concat, ConfigError, softmax, type Gpu, type Tensor } from "@x/kernels";
import { routingStats } from "@x/moe";
import type { Tokenizer } from "@x/tokenizer";
import type { CausalLM } from "../model/model.js";
import { wordClass } from "../corpus/stories.js";

/** What the experts of one layer do on a text; matrices are by rows. */
export interface LayerRouting {
  /** Name of the layer's feed-forward block. */
  readonly name: string;
  readonly numExperts: number;
  readonly topK: number;
  /** Share of all choices that each expert gets. */
  readonly load: readonly number[];
  /** 1: all experts take the same share. */
  readonly loadEntropy: number;
  /** Mean entropy of a token's probabilities, in nats. */
  readonly routerEntropy: number;
  /** Largest share over the mean share. */
  readonly maxOverMean: number;
  readonly deadExperts: number;
  /** Of token class and expert, in nats: 0 where experts ignore classes. */
  readonly mutualInformation: number;
  /** [classes][experts]: share of a class's choices that go to the expert. */
  readonly typeShare: readonly (readonly number[])[];
  /** [classes][experts]: share of an expert's choices that are of the class. */
  readonly expertShare: readonly (readonly number[])[];
}

export interface ExpertReport {
  readonly tokens: number;
  /** Token classes, the most frequent first, and their numbers of tokens. */
  readonly classes: readonly { readonly name: string; readonly tokens: number }[];
  readonly layers: readonly LayerRouting[];
}

/** A token with the class of the word that it belongs to. */
interface ClassedToken {
  readonly id: number;
  readonly kind: string;
}

/** Tokens of a text; a token belongs to the word of its first character that is not a space. */
export function classedTokens(
  text: string,
  tokenizer: Tokenizer,
  classOf: (word: string) => string = wordClass,
): ClassedToken[] {
  const kinds = new Array<string>(text.length).fill("space");
  for (const match of text.matchAll(/[\p{L}\p{N}']+|[^\s]/gu))
    kinds.fill(classOf(match[0]), match.index, match.index + match[0].length);
  let at = 0;
  const stream = tokenizer.decoder();
  return tokenizer.encode(text, { addSpecialTokens: false }).map((id, i, ids) => {
    // A character that the token begins is not in the stream yet, but shows in the token's text.
    const piece = tokenizer.decode([id], { after: ids.slice(Math.max(0, i - 4), i) });
    const first = at + Math.max(0, piece.search(/\S/));
    at += stream.push(id).length;
    return { id, kind: kinds[Math.min(first, text.length - 1)] ?? "space" };
  });
}

interface Kept {
  readonly indices: Tensor[];
  readonly weights: Tensor[];
  readonly probs: Tensor[];
}

const WINDOW = 128;

/**
 * Run a model over documents and gather what each of its routers did, by token class.
 *
 * @throws ConfigError for a model without routed experts
 */
export async function expertReport(
  gpu: Gpu,
  model: CausalLM,
  tokenizer: Tokenizer,
  documents: readonly string[],
  classOf: (word: string) => string = wordClass,
): Promise<ExpertReport> {
  const end = tokenizer.eosTokenId;
  const tokens = documents.flatMap((text) => [
    ...classedTokens(text, tokenizer, classOf),
    ...(end === undefined ? [] : [{ id: end, kind: "end of text" }]),
  ]);
  if (tokens.length === 0) throw new ConfigError("experts", "the text is empty");
  const counts = new Map<string, number>();
  for (const { kind } of tokens) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  const classes = [...counts]
    .map(([name, count]) => ({ name, tokens: count }))
    .sort((a, b) => b.tokens - a.tokens || (a.name < b.name ? -1 : 1));
  const numbers = new Map(classes.map(({ name }, i) => [name, i]));
  const layers = new Map<string, Kept>();
  const width = Math.min(WINDOW, model.context);
  try {
    for (let start = 0; start < tokens.length; start += width) {
      const part = tokens.slice(start, start + width);
      gpu.scope(() => {
        const ids = gpu.tensor(
          part.map(({ id }) => id),
          [1, part.length],
          "i32",
        );
        model.hidden(ids, {
          observe: (name, { logits, indices, weights }) => {
            if (!name.endsWith(".router") || !logits || !indices || !weights) return;
            const layer = layers.get(name) ?? { indices: [], weights: [], probs: [] };
            layers.set(name, layer);
            const rows = (t: Tensor): Tensor => gpu.keep(t.reshape([1, part.length, t.shape.at(-1)!]));
            layer.indices.push(rows(indices));
            layer.weights.push(rows(weights));
            layer.probs.push(rows(softmax(logits)));
          },
        });
      });
    }
    if (layers.size === 0)
      throw new ConfigError("experts", "the model has no layer that routes tokens to experts");
    const types = gpu.tensor(
      tokens.map(({ kind }) => numbers.get(kind)!),
      [1, tokens.length],
      "i32",
    );
    const out: LayerRouting[] = [];
    for (const [name, kept] of layers) {
      const numExperts = kept.probs[0]!.shape.at(-1)!;
      const stats = gpu.scope(() => {
        const { indices, weights, probs } = kept;
        const join = (list: Tensor[]): Tensor => concat(list, 1);
        return routingStats(join(indices), join(weights), join(probs), types, {
          numExperts,
          numTypes: classes.length,
        });
      });
      const read = async (t: Tensor): Promise<number[]> => Array.from(await t.read());
      const matrix = async (t: Tensor): Promise<number[][]> => {
        const flat = await read(t);
        return classes.map((_, i) => flat.slice(i * numExperts, (i + 1) * numExperts));
      };
      out.push({
        name: name.replace(/\.router$/, ""),
        numExperts,
        topK: kept.indices[0]!.shape.at(-1)!,
        load: await read(stats.load),
        loadEntropy: await stats.loadEntropyNormalized.item(),
        routerEntropy: await stats.routerEntropy.item(),
        maxOverMean: await stats.maxOverMean.item(),
        deadExperts: await stats.deadExperts.item(),
        mutualInformation: await stats.mutualInformation.item(),
        typeShare: await matrix(stats.typeShare),
        expertShare: await matrix(stats.expertShare),
      });
      for (const t of Object.values({ ...stats })) t.dispose();
    }
    types.dispose();
    return { tokens: tokens.length, classes, layers: out };
  } finally {
    for (const { indices, weights, probs } of layers.values())
      for (const t of [...indices, ...weights, ...probs]) t.dispose();
  }
}

/** A share as a percentage. */
export const percent = (x: number): string => `${(100 * x).toFixed(0)}%`;

/** The report for a terminal: of each layer, the load of its experts and the classes that each takes most of. */
export function expertTable(report: ExpertReport, top = 4): string {
  const lines = [`${report.tokens} tokens in ${report.classes.length} classes`];
  for (const layer of report.layers) {
    lines.push(
      "",
      `${layer.name}: ${layer.numExperts} experts, ${layer.topK} a token | load entropy ${layer.loadEntropy.toFixed(3)}, largest/mean ${layer.maxOverMean.toFixed(2)}, idle ${layer.deadExperts} | router entropy ${layer.routerEntropy.toFixed(2)} | class-expert information ${layer.mutualInformation.toFixed(3)}`,
    );
    for (let e = 0; e < layer.numExperts; e++) {
      const bar = "█".repeat(
        Math.round((layer.load[e]! * layer.numExperts * 10) / Math.max(1, layer.maxOverMean)),
      );
      // Classes by how far the expert's share of them exceeds its share of everything.
      const taken = report.classes
        .map(({ name }, i) => ({ name, own: layer.expertShare[i]![e]!, share: layer.typeShare[i]![e]! }))
        .filter(({ own }) => own > 0)
        .sort((a, b) => b.share - a.share || b.own - a.own)
        .slice(0, top)
        .map(({ name, share }) => `${name} ${percent(share)}`);
      lines.push(
        `  expert ${String(e).padStart(2)} ${percent(layer.load[e]!).padStart(4)} ${bar.padEnd(10)} ${taken.join(", ")}`,
      );
    }
  }
  return `${lines.join("\n")}\n`;
}
