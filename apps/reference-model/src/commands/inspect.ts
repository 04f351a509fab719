import type { Command } from "commander";
import { topKeys, valueTokens } from "@x/ffn";
import { ConfigError, gather, transpose } from "@x/kernels";
import { loadCheckpoint } from "../checkpoint/load.js";
import { LayerMemory } from "../facts/layer_memory.js";
import { checkLength, CONTEXT_RULE } from "../model/context.js";
import { componentsOf, componentsOption, type ComponentsFlag } from "./components_option.js";
import { loadingBar } from "./progress.js";
import { expectTokenizer, integer, integerIn, modelOption, text, withDevice } from "./shared.js";
import { table } from "./table.js";

interface InspectFlags extends ComponentsFlag {
  model: string;
  prompt: string;
  layer?: number;
  token?: number;
  keys: number;
  words: number;
  json?: true;
}

/** What a key of a layer does for the token that is looked at. */
interface FiredKey {
  readonly layer: number;
  readonly expert?: number;
  readonly key: number;
  /** Coefficient of the value. */
  readonly m: number;
  /** |m| times the norm of the value. */
  readonly contribution: number;
  readonly promotes: readonly {
    readonly token: number;
    readonly text: string;
    readonly probability: number;
  }[];
}

/** A token as one printable word. */
const show = (text: string): string => JSON.stringify(text).slice(1, -1);

function keyTable(fired: readonly FiredKey[]): string {
  const mixed = fired.some(({ expert }) => expert !== undefined);
  return table(
    ["layer", mixed ? "expert:key" : "key", "m", "|m| |value|", "m value promotes"],
    fired.map(({ layer, expert, key, m, contribution, promotes }) => [
      layer,
      expert === undefined ? String(key) : `${expert}:${key}`,
      Number(m.toFixed(3)),
      Number(contribution.toFixed(3)),
      promotes.map(({ text, probability }) => `${show(text)} ${probability.toFixed(2)}`).join(" | "),
    ]),
  );
}

/** `inspect`: feed-forward blocks as memories. */
export function inspectCommand(program: Command): void {
  program
    .command("inspect")
    .description("which keys of the feed-forward blocks fire for a token, and what they add says")
    .addOption(modelOption())
    .addOption(componentsOption())
    .requiredOption("-p, --prompt <text>", "the text; its last token is looked at", text)
    .option("--layer <n>", "one layer (default: all whose block is a memory)", integerIn(0))
    .option("--token <n>", "another token, by its number; negative from the end", integer)
    .option("-k, --keys <n>", "keys of a layer", integerIn(1), 5)
    .option("-w, --words <n>", "tokens of a value", integerIn(1), 6)
    .option("--json", "print one line of JSON: {token, ids, keys: [{layer, key, m, contribution, promotes}]}")
    .addHelpText("after", `\n${CONTEXT_RULE}`)
    .action(async (flags: InspectFlags) => {
      const components = await componentsOf(flags);
      await withDevice(async (gpu) => {
        const { model } = await loadCheckpoint(gpu, flags.model, { ...loadingBar(flags.model), components });
        const tokenizer = await expectTokenizer("inspect", flags.model);
        const ids = tokenizer.encode(flags.prompt);
        if (ids.length === 0) throw new ConfigError("inspect", "the prompt is empty");
        const warning = checkLength("inspect: --prompt", model, ids.length);
        if (warning) process.stderr.write(`warning: --prompt: ${warning}\n`);
        const token = flags.token ?? -1;
        const at = token < 0 ? token + ids.length : token;
        if (at < 0 || at >= ids.length)
          throw new ConfigError("inspect", `--token is ${token}; the prompt has ${ids.length} tokens`);
        const all = model.layers.map((_, i) => i);
        const layers =
          flags.layer === undefined ? all.filter((i) => model.layers[i]!.ffn.memory) : [flags.layer];
        if (layers.length === 0)
          throw new ConfigError("inspect", "no block of this model is a memory of keys and values");
        const head = model.headWeight;
        const input = gpu.tensor(ids, [1, ids.length], "i32");
        const fired: FiredKey[] = [];
        for (const layer of layers) {
          const open = new LayerMemory(model, layer);
          const { index, score, share, words, probabilities } = gpu.scope(() => {
            const keys = open.keys(input);
            const F = keys.shape.at(-1)!;
            const row = gather(keys.reshape([ids.length, F]), gpu.tensor([at], [1], "i32"));
            keys.dispose();
            const values = open.memory.values();
            const top = topKeys(row, values, Math.min(flags.keys, F), { rankBy: "contribution" });
            // m value: a key that fires below 0 promotes what its value is against.
            const added = top.contribution.reshape([top.index.size, head.shape[1]!]);
            const said = valueTokens(transpose(added), head, Math.min(flags.words, head.shape[0]!));
            return {
              index: top.index,
              score: top.score,
              share: row,
              words: said.index,
              probabilities: said.prob,
            };
          });
          const [keys, scores, m] = [await index.read(), await score.read(), await share.read()];
          const [tokens, p] = [await words.read(), await probabilities.read()];
          const width = m.length / open.memory.experts;
          const n = words.shape[1]!;
          Array.from(keys).forEach((key, i) => {
            const promotes = Array.from({ length: n }, (_, j) => {
              const token = tokens[i * n + j]!;
              const text = tokenizer.decode([token], { after: ids.slice(0, at + 1) });
              return { token, text, probability: p[i * n + j]! };
            });
            const mixed = open.memory.experts > 1;
            fired.push({
              layer,
              ...(mixed ? { expert: Math.floor(key / width) } : {}),
              key: mixed ? key % width : key,
              m: m[key]!,
              contribution: scores[i]!,
              promotes,
            });
          });
          for (const t of [index, score, share, words, probabilities]) t.dispose();
        }
        model.dispose();
        if (flags.json) {
          process.stdout.write(`${JSON.stringify({ token: at, ids, keys: fired })}\n`);
          return;
        }
        const text = tokenizer.decode([ids[at]!], { after: ids.slice(0, at) });
        process.stdout.write(`token ${at} of ${ids.length}: ${JSON.stringify(text)}\n\n`);
        process.stdout.write(keyTable(fired));
      });
    });
}
