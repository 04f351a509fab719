import {
  ConfigError,
  defineKernel,
  repetitionPenalty,
  sample,
  type Kernel,
  type SampleOptions,
  type Tensor,
} from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import type { CausalLM } from "./model.js";

export interface GenerateOptions extends Pick<SampleOptions, "temperature" | "topK" | "topP" | "minP"> {
  readonly maxNewTokens: number;
  readonly seed?: number;
  /** Above 1: tokens that occurred become less likely. */
  readonly repetitionPenalty?: number;
  /** Go on after the end-of-text token. */
  readonly ignoreEos?: boolean;
  /** Ends the text before any of these. */
  readonly stop?: readonly string[];
  /** Called between tokens; true ends the run. */
  readonly cancelled?: () => boolean;
}

export interface Generated {
  readonly ids: number[];
  readonly text: string;
  /** After the first token. */
  readonly tokensPerSecond: number;
  readonly reason: "length" | "eos" | "stop" | "cancelled";
}

/** Puts a new token where the next step reads it, and counts. */
const advanceKernel: Kernel<undefined> = defineKernel({
  name: "advanceDecoding",
  bindings: {
    next: "read i32",
    token: "read_write i32",
    position: "read_write i32",
    step: "read_write u32",
    history: "read_write i32",
  },
  params: { limit: "u32" },
  wgsl: () => /* wgsl */ `
@compute @workgroup_size(1)
fn main() {
  let id = next[0];
  token[0] = id;
  position[0] += 1;
  step[0] += 1u;
  history[min(u32(position[0]), params.limit - 1u)] = id;
}`,
});

/** Length of the longest end of `text` that could be the start of a stop string. */
function pending(text: string, stops: readonly string[]): number {
  let longest = 0;
  for (const stop of stops) {
    for (let n = Math.min(stop.length - 1, text.length); n > longest; n--) {
      if (text.endsWith(stop.slice(0, n))) longest = n;
    }
  }
  return longest;
}

/**
 * Continue a list of ids. Sampling happens on the device; of each step only the id comes back. The step is recorded
 * once and replayed, and the caches are of fixed size.
 *
 * @throws ConfigError for ids outside the vocabulary and an empty prompt.
 */
export async function generate(
  model: CausalLM,
  prompt: readonly number[],
  options: GenerateOptions,
  tokenizer?: Tokenizer,
  onText: (text: string) => void = () => undefined,
): Promise<Generated> {
  const { gpu, config } = model;
  const {
    maxNewTokens,
    seed = 0,
    repetitionPenalty: penalty = 1,
    ignoreEos = false,
    stop = [],
    cancelled = () => false,
  } = options;
  if (prompt.length === 0) throw new ConfigError("generate", "the prompt has no tokens");
  const bad = prompt.find((id) => !Number.isInteger(id) || id < 0 || id >= config.vocabSize);
  if (bad !== undefined)
    throw new ConfigError("generate", `id ${String(bad)} is outside the vocabulary of ${config.vocabSize}`);
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0)
    throw new ConfigError("generate", `maxNewTokens is ${maxNewTokens}; it must be an integer of at least 0`);
  const ids: number[] = [];
  const maxLength = prompt.length + maxNewTokens;
  const finish = (text: string, seconds: number, reason: Generated["reason"]): Generated => ({
    ids,
    text,
    tokensPerSecond: ids.length > 1 && seconds > 0 ? (ids.length - 1) / seconds : 0,
    reason,
  });
  if (maxNewTokens === 0) return finish("", 0, "length");
  const state = model.createState({ maxLength, maxChunk: Math.min(64, Math.max(1, prompt.length)) });
  const held: Tensor[] = [];
  const keep = (t: Tensor): Tensor => {
    held.push(gpu.keep(t));
    return t;
  };
  const token = keep(gpu.tensor([prompt.at(-1)!], [1, 1], "i32"));
  const position = keep(gpu.tensor([prompt.length - 1], [1, 1], "i32"));
  const count = keep(gpu.tensor([0], [1], "u32"));
  const history = keep(
    gpu.tensor(
      Int32Array.from({ length: maxLength }, (_, i) => prompt[i] ?? -1),
      [maxLength],
      "i32",
    ),
  );
  const { temperature = 1, topK = 0, topP = 1, minP = 0 } = options;
  const choose = (logits: Tensor): Tensor => {
    const last = logits.reshape([config.vocabSize]);
    const penalized = penalty === 1 ? last : repetitionPenalty(last, history, penalty);
    const next = sample(penalized, { temperature, topK, topP, minP, seed, step: count });
    gpu.run(advanceKernel, {
      bindings: { next, token, position, step: count, history },
      params: { limit: maxLength },
    });
    return next;
  };
  const replays = state.layers.every((layer) => layer.countsOnHost !== true);
  let recording: { replay: () => void; dispose: () => void } | undefined;
  try {
    for (let start = 0; start < prompt.length; start += state.maxChunk) {
      const chunk = prompt.slice(start, start + state.maxChunk);
      const last = start + chunk.length === prompt.length;
      gpu.scope(() => {
        const positionIds = gpu.tensor(
          chunk.map((_, i) => start + i),
          [1, chunk.length],
          "i32",
        );
        const chunkIds = gpu.tensor(chunk, [1, chunk.length], "i32");
        const hidden = model.hidden(chunkIds, { positionIds, lastOnly: true }, state);
        if (last) choose(model.head(hidden));
      });
    }
    const decoder = tokenizer?.decoder({ skipSpecialTokens: true });
    let text = "";
    let shown = 0;
    let started = 0;
    // One step runs ahead of what has been read, so that the device works while an id is on its way; a text that ends
    // at it leaves that step's result alone.
    const step = (): void => {
      const decode = (): Tensor => choose(model.forward(token, { positionIds: position }, state));
      if (!replays) gpu.scope(decode);
      else if (recording) recording.replay();
      else recording = gpu.record(decode);
      gpu.flush();
    };
    for (;;) {
      const reading = token.read();
      if (ids.length + 1 < maxNewTokens) step();
      const id = (await reading)[0]!;
      if (ids.length === 0) started = performance.now();
      const seconds = (): number => (performance.now() - started) / 1000;
      const eos = config.eosTokenIds.includes(id);
      ids.push(id);
      if (!eos || ignoreEos) text += decoder?.push(id) ?? "";
      const cut = stop.map((s) => text.indexOf(s)).filter((at) => at >= 0);
      const done =
        eos && !ignoreEos
          ? "eos"
          : cut.length > 0
            ? "stop"
            : ids.length >= maxNewTokens
              ? "length"
              : cancelled()
                ? "cancelled"
                : undefined;
      if (done !== undefined) {
        if (done !== "stop") text += decoder?.end() ?? "";
        const end = cut.length > 0 ? Math.min(...cut) : text.length;
        text = text.slice(0, end);
        if (end > shown) onText(text.slice(shown));
        return finish(text, seconds(), done);
      }
      const safe = text.length - pending(text, stop);
      if (safe > shown) {
        onText(text.slice(shown, safe));
        shown = safe;
      }
    }
  } finally {
    recording?.dispose();
    for (const t of held) t.dispose();
    state.dispose();
  }
}
