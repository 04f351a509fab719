import { randomNormal, vjp, type Gpu, type Tensor } from "@x/kernels";
import { gluFfn } from "@x/ffn";
import { mixtralMoe, peer } from "@x/moe";
import type { Suite } from "./suites.js";
import { interleaved, type Timing } from "../measure/timing.js";

class Weights {
  readonly #gpu: Gpu;
  readonly #made: Tensor[] = [];
  #stream = 0;

  constructor(gpu: Gpu) {
    this.#gpu = gpu;
  }

  normal(shape: readonly number[], std = 0.05): Tensor {
    const t = this.#gpu.keep(randomNormal(this.#gpu, shape, { seed: 1, stream: this.#stream++, std }));
    this.#made.push(t);
    return t;
  }

  dispose(): void {
    for (const t of this.#made) t.dispose();
  }
}

const [DIM, HIDDEN, TOP_K] = [256, 688, 2];
const ratio = (a: Timing, b: Timing): string =>
  `${(a.min / b.min).toFixed(2)} (medians ${(a.median / b.median).toFixed(2)})`;

/** 8 experts, 2 a token, against a dense block of twice an expert's width. */
async function activeCost(gpu: Gpu, rounds: number, say: (line: string) => void): Promise<unknown> {
  const w = new Weights(gpu);
  const x = w.normal([1, 512, DIM], 1);
  const g = w.normal([1, 512, DIM], 1);
  const dense = {
    wGate: w.normal([TOP_K * HIDDEN, DIM]),
    wUp: w.normal([TOP_K * HIDDEN, DIM]),
    wDown: w.normal([DIM, TOP_K * HIDDEN]),
  };
  const router = w.normal([8, DIM]);
  const experts = {
    kind: "glu",
    wGate: w.normal([8, HIDDEN, DIM]),
    wUp: w.normal([8, HIDDEN, DIM]),
    wDown: w.normal([8, DIM, HIDDEN]),
  } as const;
  const ffn = (): Tensor => gluFfn(x, dense);
  const moe = (): Tensor => mixtralMoe(x, router, experts, { topK: TOP_K, renormalize: true }).out;
  const training = (forward: () => Tensor, wrt: readonly Tensor[]) => (): void => {
    vjp(() => [forward()], wrt).pullback([g]);
  };
  const t = await interleaved(
    gpu,
    {
      "dense forward": ffn,
      "moe forward": moe,
      "dense forward + backward": training(ffn, [x, ...Object.values(dense)]),
      "moe forward + backward": training(moe, [x, router, experts.wGate, experts.wUp, experts.wDown]),
    },
    rounds,
  );
  say(`512 tokens, dim ${DIM}, 8 experts of ${HIDDEN}, 2 a token, over a dense block of ${TOP_K * HIDDEN}:`);
  say(`  forward            ${ratio(t["moe forward"], t["dense forward"])}`);
  say(`  forward + backward ${ratio(t["moe forward + backward"], t["dense forward + backward"])}`);
  w.dispose();
  return t;
}

/** One token against the number of experts: only the chosen ones' weights are read. */
async function decodeCost(gpu: Gpu, rounds: number, say: (line: string) => void): Promise<unknown> {
  const w = new Weights(gpu);
  const x = w.normal([1, 1, DIM], 1);
  const programs: Record<string, () => void> = {};
  for (const count of [8, 16, 32, 64]) {
    const router = w.normal([count, DIM]);
    const experts = {
      kind: "glu",
      wGate: w.normal([count, HIDDEN, DIM]),
      wUp: w.normal([count, HIDDEN, DIM]),
      wDown: w.normal([count, DIM, HIDDEN]),
    } as const;
    programs[`${count} experts`] = () => mixtralMoe(x, router, experts, { topK: TOP_K, renormalize: true });
  }
  const t = await interleaved(gpu, programs, rounds);
  say(`one token, 2 experts of ${HIDDEN}, by the number of experts:`);
  for (const [name, { min, median }] of Object.entries(t))
    say(
      `  ${name.padEnd(12)} ${min.toFixed(2)} ms (median ${median.toFixed(2)}), ${(min / t["8 experts"]!.min).toFixed(2)}x`,
    );
  w.dispose();
  return t;
}

/** PEER by the number of experts, which the tables' memory grows with and the time only with its square root. */
async function peerCost(gpu: Gpu, rounds: number, say: (line: string) => void): Promise<unknown> {
  // A million rows of 32 numbers are 128 MiB, the least that a device binds.
  const [dim, tokens, numHeads, topK, queryDim] = [32, 128, 8, 16, 64];
  const parts = ["forward", "router gradients", "all gradients"] as const;
  const programs: Record<string, () => void> = {};
  const sizes = [128, 256, 512, 1024];
  const w = new Weights(gpu);
  const x = w.normal([1, tokens, dim], 1);
  const g = w.normal([1, tokens, dim], 1);
  for (const n of sizes) {
    const weights = {
      wQuery: w.normal([numHeads * queryDim, dim], 0.1),
      keys: w.normal([2, n, queryDim / 2], 0.2),
      expertDown: w.normal([n * n, dim], 0.1),
      expertUp: w.normal([n * n, dim], 0.1),
    };
    const forward = (): Tensor => peer(x, weights, { numHeads, topK, queryDim }).out;
    const training = (wrt: readonly Tensor[]) => (): void => {
      vjp(() => [forward()], wrt).pullback([g]);
    };
    programs[`${n * n} ${parts[0]}`] = forward;
    programs[`${n * n} ${parts[1]}`] = training([x, weights.wQuery, weights.keys]);
    // The tables' dense gradients are cleared, and written where a row was retrieved.
    programs[`${n * n} ${parts[2]}`] = training([x, ...Object.values(weights)]);
  }
  const t = await interleaved(gpu, programs, rounds);
  say(`PEER, ${tokens} tokens, dim ${dim}, ${numHeads} heads of ${topK} experts, by the number of experts:`);
  for (const n of sizes) {
    const figures = parts.map((part) => {
      const [own, first] = [t[`${n * n} ${part}`]!, t[`${sizes[0]! ** 2} ${part}`]!];
      return `${part} ${own.min.toFixed(1)} ms (${(own.min / first.min).toFixed(2)}x)`;
    });
    say(`  ${String(n * n).padStart(7)} experts: ${figures.join(", ")}`);
  }
  w.dispose();
  gpu.trim();
  return t;
}

export const suite: Suite = {
  description:
    "mixtures of experts: cost of the active experts, of one token, and of PEER by its number of experts",
  run: async (gpu, { quick, filter, say }) => {
    const rounds = quick ? 3 : 15;
    const parts = { active: activeCost, decode: decodeCost, peer: peerCost };
    const out: Record<string, unknown> = {};
    for (const [name, part] of Object.entries(parts))
      if (name.includes(filter)) out[name] = await part(gpu, rounds, say);
    return out;
  },
};
