import { gather, logSoftmax } from "@x/kernels";
import type { Tokenizer } from "@x/tokenizer";
import type { CausalLM } from "../model/model.js";
import { padded, positionsOf, tokensOf, TOGETHER } from "./fact.js";

export interface Claim {
  /** A text, and what may follow it. */
  readonly prompt: string;
  readonly target: string;
}

export interface Belief extends Claim {
  /** Probability of the target after the prompt. */
  readonly probability: number;
  /** What the model says there itself: its likeliest tokens, as many as the target has. */
  readonly says: string;
}

/** What a model makes of claims. */
export async function beliefs(
  model: CausalLM,
  tokenizer: Tokenizer,
  claims: readonly Claim[],
): Promise<Belief[]> {
  const { gpu } = model;
  const rows = claims.map((claim) => {
    const ids = tokenizer.encode(`${claim.prompt}${claim.target}`, { addSpecialTokens: false });
    return { claim, ids, first: tokensOf(tokenizer, "beliefs", claim.prompt, ids) };
  });
  const out: Belief[] = [];
  for (let start = 0; start < rows.length; start += TOGETHER) {
    const some = rows.slice(start, start + TOGETHER);
    const { ids, width } = padded(gpu, some);
    const spoken = some.flatMap((row, i) =>
      Array.from({ length: row.ids.length - row.first }, (_, t) => i * width + row.first + t - 1),
    );
    const logs = gpu.scope(() => {
      const hidden = model.hidden(ids);
      const flat = hidden.reshape([some.length * width, hidden.shape.at(-1)!]);
      return logSoftmax(model.head(gather(flat, positionsOf(gpu, spoken))));
    });
    ids.dispose();
    const [data, V] = [await logs.read(), logs.shape[1]!];
    logs.dispose();
    let at = 0;
    for (const { claim, ids: own, first } of some) {
      let log = 0;
      const said: number[] = [];
      for (let t = first; t < own.length; t++, at++) {
        const row = Array.from(data.subarray(at * V, (at + 1) * V));
        log += row[own[t]!]!;
        said.push(row.indexOf(Math.max(...row)));
      }
      out.push({
        ...claim,
        probability: Math.exp(log),
        says: tokenizer.decode(said, { after: own.slice(0, first) }),
      });
    }
  }
  return out;
}
