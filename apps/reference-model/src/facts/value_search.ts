import { factValue, type FactValueOptions } from "@x/ffn";
import { crossEntropy, gather, logSoftmax, matmul, mul, softmax, sub, sum, type Tensor } from "@x/kernels";
import { padded, positionsOf, type FactRow } from "./fact.js";
import type { LayerMemory } from "./layer_memory.js";

export interface ValueSearchOptions extends FactValueOptions {
  /** Weight of the divergence of what follows the subject itself; 0 where that is the target. Default 0.0625. */
  readonly kl?: number;
}

/** Rows made ready: the model's hidden states at some positions, with an edit in place. */
class EditInPlace {
  readonly #open: LayerMemory;
  readonly #ids: Tensor;
  readonly #shares: Tensor;
  readonly width: number;
  readonly count: number;

  /**
   * An edit W + delta u^T adds delta (u . k) to the block's output at every token, k being the token's key: `shares`
   * holds the (u . k), since keys lie before what the edit changes.
   */
  constructor(open: LayerMemory, rows: readonly { readonly ids: readonly number[] }[], direction: Tensor) {
    const { gpu } = open.model;
    this.#open = open;
    this.count = rows.length;
    ({ ids: this.#ids, width: this.width } = padded(gpu, rows));
    const keys = open.keys(this.#ids);
    const F = direction.size;
    this.#shares = gpu.scope(() =>
      gpu.keep(matmul(keys.reshape([rows.length * this.width, F]), direction.reshape([F, 1]))),
    );
    keys.dispose();
  }

  /** Logits at flat positions, with an edit [dim] or without. */
  logits(positions: Tensor, delta?: Tensor): Tensor {
    const { model } = this.#open;
    const hidden = delta
      ? this.#open.hidden(this.#ids, mul(this.#shares.reshape([this.count, this.width, 1]), delta))
      : model.hidden(this.#ids);
    return model.head(gather(hidden.reshape([this.count * this.width, hidden.shape.at(-1)!]), positions));
  }

  dispose(): void {
    for (const t of [this.#ids, this.#shares]) t.dispose();
  }
}

/** Where rows say their targets, and the targets. */
function spokenBy(
  rows: readonly FactRow[],
  width: number,
): { readonly positions: number[]; readonly targets: number[] } {
  const spoken = rows.flatMap((row, i) =>
    row.targets.map((t) => ({ at: i * width + t, id: row.ids[t + 1]! })),
  );
  return { positions: spoken.map(({ at }) => at), targets: spoken.map(({ id }) => id) };
}

/**
 * The change of a block's output that makes the model say the target in all rows. The edit stands in the model while
 * its value is searched, W + delta u^T at every token, and not a constant at one: a row whose key lies a little off
 * the mean counts as it will.
 *
 * start [dim] is the output for the key so far, direction [F] the u of the edit, with u . key = 1. Result [dim].
 */
export async function searchValue(
  open: LayerMemory,
  rows: readonly FactRow[],
  start: Tensor,
  direction: Tensor,
  options: ValueSearchOptions,
): Promise<{ readonly delta: Tensor; readonly losses: readonly number[] }> {
  const { gpu } = open.model;
  const { kl = 0.0625, steps, learningRate, weightDecay, clamp, enough } = options;
  const search = Object.entries({ steps, learningRate, weightDecay, clamp, enough });
  const place = new EditInPlace(open, rows, direction);
  const spoken = spokenBy(rows, place.width);
  const positions = positionsOf(gpu, spoken.positions);
  const targets = positionsOf(gpu, spoken.targets);
  const ends = positionsOf(
    gpu,
    rows.map((row, i) => i * place.width + row.key),
  );
  const made = [positions, targets, ends];
  // What follows the subject by itself is to stay, as far as the target is not what follows it.
  const weight = rows.some((row) => row.targets.includes(row.key)) ? 0 : kl;
  try {
    let usual: Tensor | undefined;
    if (weight > 0) made.push((usual = gpu.scope(() => gpu.keep(softmax(place.logits(ends))))));
    const { value, delta, losses } = await factValue(
      start,
      (change) => {
        const loss = crossEntropy(place.logits(positions, change), targets);
        if (!usual) return loss;
        // KL(usual || now), less the entropy of the usual, which does not change.
        const cross = sum(mul(usual, logSoftmax(place.logits(ends, change))));
        return sub(loss, mul(cross, weight / rows.length));
      },
      Object.fromEntries(search.filter(([, v]) => v !== undefined)),
    );
    value.dispose();
    return { delta, losses };
  } finally {
    place.dispose();
    for (const t of made) t.dispose();
  }
}
