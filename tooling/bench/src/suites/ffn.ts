import { linear, randomNormal, vjp, type Gpu, type Tensor } from "@x/kernels";
import { ffn, gluFfn, KAN_BASES, KanFeedForward } from "@x/ffn";
import type { Suite } from "./suites.js";
import { interleaved, type Timing } from "../measure/timing.js";

interface Row {
  /** Milliseconds, the least of the rounds. */
  readonly forward: number;
  readonly forwardBackward: number;
}

type Block = (x: Tensor) => Tensor;

const normal = (gpu: Gpu, shape: readonly number[], stream: number): Tensor =>
  gpu.keep(randomNormal(gpu, shape, { seed: 1, stream, std: 0.05 }));

/** Time blocks in turn, so that what else the machine does falls on all of them. */
async function measure(
  gpu: Gpu,
  x: Tensor,
  blocks: Readonly<Record<string, { readonly run: Block; readonly weights: readonly Tensor[] }>>,
  rounds: number,
): Promise<Record<string, Row>> {
  const cotangent = normal(gpu, x.shape, 99);
  const programs = Object.entries(blocks).flatMap(([name, { run, weights }]) => [
    [
      `${name}: forward`,
      () => {
        run(x);
      },
    ],
    [
      `${name}: forward and backward`,
      () => {
        vjp(() => [run(x)], [x, ...weights]).pullback([cotangent]);
      },
    ],
  ]) as [string, () => void][];
  const times = await interleaved(gpu, Object.fromEntries(programs), rounds);
  cotangent.dispose();
  return Object.fromEntries(
    Object.keys(blocks).map((name) => [
      name,
      {
        forward: times[`${name}: forward`]!.min,
        forwardBackward: times[`${name}: forward and backward`]!.min,
      },
    ]),
  );
}

/** Blocks against the products that they consist of. */
async function dense(gpu: Gpu, rounds: number): Promise<Record<string, Row>> {
  const [tokens, dim, hidden] = [512, 256, 688];
  const x = normal(gpu, [tokens, dim], 0);
  const [wGate, wUp, wDown] = [
    normal(gpu, [hidden, dim], 1),
    normal(gpu, [hidden, dim], 2),
    normal(gpu, [dim, hidden], 3),
  ];
  const [w1, w2] = [normal(gpu, [4 * dim, dim], 4), normal(gpu, [dim, 4 * dim], 5)];
  const out = await measure(
    gpu,
    x,
    {
      "two products": { run: (t) => linear(linear(t, w1), w2), weights: [w1, w2] },
      "ffn gelu": { run: (t) => ffn(t, { w1, w2 }, { activation: "gelu" }), weights: [w1, w2] },
      "three products": {
        run: (t) => {
          linear(t, wGate);
          return linear(linear(t, wUp), wDown);
        },
        weights: [wUp, wDown],
      },
      "glu swiglu": { run: (t) => gluFfn(t, { wGate, wUp, wDown }), weights: [wGate, wUp, wDown] },
    },
    rounds,
  );
  for (const t of [x, wGate, wUp, wDown, w1, w2]) t.dispose();
  return out;
}

/** One token without gradients, as in decoding: a gated block over its three products. */
async function decode(gpu: Gpu, rounds: number): Promise<Record<string, Timing>> {
  const programs: Record<string, () => void> = {};
  const made: Tensor[] = [];
  for (const [dim, hidden] of [
    [256, 688],
    [2048, 5504],
  ] as const) {
    const x = normal(gpu, [1, dim], 0);
    const [wGate, wUp] = [normal(gpu, [hidden, dim], 1), normal(gpu, [hidden, dim], 2)];
    const wDown = normal(gpu, [dim, hidden], 3);
    made.push(x, wGate, wUp, wDown);
    programs[`three products ${dim}`] = () => {
      linear(x, wGate);
      linear(linear(x, wUp), wDown);
    };
    programs[`glu swiglu ${dim}`] = () => {
      gluFfn(x, { wGate, wUp, wDown });
    };
  }
  const out = await interleaved(gpu, programs, rounds);
  for (const t of made) t.dispose();
  return out;
}

const FAMILIES: Readonly<Record<(typeof KAN_BASES)[number], object>> = {
  bspline: { gridSize: 5 },
  chebyshev: { degree: 4 },
  fourier: { gridSize: 4 },
  wavelet: {},
};

/** KAN blocks of each basis at one size. */
async function kan(gpu: Gpu, rounds: number): Promise<Record<string, Row>> {
  const [tokens, dim] = [512, 64];
  const x = normal(gpu, [tokens, dim], 0);
  const made: Tensor[] = [x];
  const blocks = Object.fromEntries(
    KAN_BASES.map((basis) => {
      const config = { dim, basis, ...FAMILIES[basis] };
      const block = KanFeedForward.init(gpu, config, { seed: 1 });
      const weights = Object.values(block.parameters());
      made.push(...weights);
      return [`kan ${basis}`, { run: (t: Tensor) => block.forward(t), weights }];
    }),
  );
  const out = await measure(gpu, x, blocks, rounds);
  for (const t of made) t.dispose();
  return out;
}

export const suite: Suite = {
  description: "feed-forward blocks against the products that they consist of, and KAN blocks of each basis",
  run: async (gpu, { quick, filter, say }) => {
    const rounds = quick ? 3 : 15;
    const out: Record<string, Record<string, Row>> = {};
    for (const [name, part] of Object.entries({ dense, kan })) {
      if (!name.includes(filter)) continue;
      const rows = await part(gpu, rounds);
      out[name] = rows;
      for (const [label, row] of Object.entries(rows))
        say(
          `  ${label.padEnd(15)} forward ${row.forward.toFixed(2).padStart(8)} ms, forward and backward ${row.forwardBackward.toFixed(2).padStart(8)} ms`,
        );
    }
    const {
      "glu swiglu": glu,
      "three products": three,
      "ffn gelu": plain,
      "two products": two,
    } = out["dense"] ?? {};
    if (glu && three && plain && two)
      say(
        `  over their products, forward: ffn ${(plain.forward / two.forward).toFixed(2)}x, glu ${(glu.forward / three.forward).toFixed(2)}x`,
      );
    if ("decode".includes(filter)) {
      const times = await decode(gpu, rounds);
      say("one token:");
      for (const [label, { min, median }] of Object.entries(times))
        say(`  ${label.padEnd(20)} ${min.toFixed(2).padStart(6)} ms (median ${median.toFixed(2)})`);
      return { ...out, decode: times };
    }
    return out;
  },
};
