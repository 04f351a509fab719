import { ConfigError, type Gpu } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import { encodeDocuments, evaluationBatches } from "../corpus/data.js";
import { generate, type GenerateOptions } from "../model/generate.js";
import { defaultWindow } from "../model/context.js";
import type { CausalLM } from "../model/model.js";
import { acceptsSentence, sentencesOf } from "../corpus/stories.js";

/**
 * exp of the mean cross-entropy of documents, each ended by the end-of-text token, in windows of `seqLen`
 * (by default the usual one, within the model's context).
 *
 * @throws ConfigError where no token follows another, so that nothing is predicted
 */
export async function perplexity(
  gpu: Gpu,
  model: CausalLM,
  tokenizer: Tokenizer,
  documents: readonly string[],
  seqLen: number = defaultWindow(model),
): Promise<{ perplexity: number; loss: number; tokens: number }> {
  const stream = encodeDocuments(documents, tokenizer, tokenizer.eosTokenId ?? model.config.eosTokenIds[0]);
  if (stream.length < 2)
    throw new ConfigError(
      "perplexity",
      `the text has ${stream.length === 0 ? "no tokens" : "one token"}; it must have two, of which the second is predicted`,
    );
  let [sum, tokens] = [0, 0];
  for (const batch of evaluationBatches(stream, 4, seqLen)) {
    const loss = gpu.scope(
      () =>
        model.loss(gpu.tensor(batch.ids, [4, seqLen], "i32"), gpu.tensor(batch.targets, [4, seqLen], "i32"))
          .crossEntropy,
    );
    sum += (await loss.item()) * batch.count;
    tokens += batch.count;
    loss.dispose();
  }
  return { perplexity: Math.exp(sum / tokens), loss: sum / tokens, tokens };
}

export interface StoryEvaluation {
  readonly stories: number;
  readonly sentences: number;
  /** Share of complete sentences that the grammar accepts. */
  readonly accepted: number;
  /** Share of stories that are not in the training text. */
  readonly novel: number;
  readonly examples: string[];
}

/** Sample stories and judge them by the grammar and against the training text. */
export async function evaluateStories(
  model: CausalLM,
  tokenizer: Tokenizer,
  training: ReadonlySet<string>,
  count: number,
  options: GenerateOptions,
): Promise<StoryEvaluation> {
  let [sentences, accepted, novel] = [0, 0, 0];
  const examples: string[] = [];
  for (let i = 0; i < count; i++) {
    const result = await generate(
      model,
      [tokenizer.eosTokenId ?? 0],
      { ...options, seed: (options.seed ?? 0) + i },
      tokenizer,
    );
    const own = sentencesOf(result.text.trim());
    // A story that ran into the limit may stop in the middle of its last sentence.
    if (result.reason === "length") own.pop();
    sentences += own.length;
    accepted += own.filter(acceptsSentence).length;
    if (!training.has(result.text.trim())) novel++;
    if (examples.length < 3) examples.push(result.text.trim());
  }
  return {
    stories: count,
    sentences,
    accepted: accepted / Math.max(1, sentences),
    novel: novel / count,
    examples,
  };
}
