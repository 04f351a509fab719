import type { ModelConfig } from "../config/index.js";

/** Mixers whose state is a cache of tokens by position, so that each row of a batch has a length of its own. */
const CACHED_MIXERS = ["attention", "mla"];
/** Feed-forward blocks whose output at a token depends on that token alone: no capacity that tokens compete for. */
const TOKENWISE_FFNS = ["none", "ffn", "glu", "kan", "mixtral", "qwen2Moe", "gptOss", "deepseek", "peer"];
/** Encodings that read the position of each token from a tensor and that give it the same turn in texts of any length. */
const POSITIONAL = ["none", "nope", "learned", "sinusoidal", "alibi", "rope"];

/** What a pool has to know of a model besides its configuration. */
export interface LengthRule {
  readonly config: ModelConfig;
  changes(from: number, to: number): boolean;
}

/**
 * Why the rows of a batch cannot be texts of different lengths with this model; undefined where they can. Such a model
 * is served with one row: its results would otherwise depend on the requests beside them.
 */
export function whyOneRow({ config, ...model }: LengthRule, length: number): string | undefined {
  for (const [i, { mixer, ffn, position }] of config.layers.entries()) {
    const name = `layer ${i}`;
    if (!CACHED_MIXERS.includes(mixer.type))
      return `${name} is ${mixer.type}, which keeps a state that all rows advance together`;
    if (mixer["pattern"] != null) return `${name} has a pattern of attention`;
    if (!TOKENWISE_FFNS.includes(ffn.type))
      return `${name} has ${ffn.type}, where tokens depend on each other`;
    if (!POSITIONAL.includes(position.type))
      return `${name} has the encoding ${position.type}, which is served for one text at a time`;
  }
  return model.changes(1, length) ? "its rotations change with the length of the text" : undefined;
}

/**
 * Whether the tokens of a text can be run in other pieces with the same result. Experts that choose among the tokens of
 * a step, or that hold a number of them, depend on the pieces.
 */
export const anyPieces = (config: ModelConfig): boolean =>
  config.layers.every(({ ffn }) => TOKENWISE_FFNS.includes(ffn.type) || ffn.type === "rwkv4ChannelMix");

/** Tokens that every ring of the model still holds after a text of this length; Infinity where there are no rings. */
export const shortestWindow = (config: ModelConfig): number =>
  Math.min(...config.layers.map(({ mixer }) => (mixer["window"] as number | null | undefined) ?? Infinity));
