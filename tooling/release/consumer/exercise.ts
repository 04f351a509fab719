// One component of every package, as an application uses it; each is compared with plain float64 arithmetic.
// Compiled against the packed tarballs, and bundled for the browser: no import but the packages'.
import { attention, KVCache } from "@x/attention";
import { GatedFeedForward } from "@x/ffn";
import {
  AdamW,
  crossEntropy,
  cumsum,
  embedding,
  linear,
  matmul,
  openDevice,
  randomNormal,
  softmax,
  sum,
  topk,
  valueAndGrad,
  type Gpu,
  type OpenDeviceOptions,
  type Tensor,
} from "@x/kernels";
import { checkOp, operand, relativeError } from "@x/kernels/testing";
import { MixtralMoe } from "@x/moe";
import { RMSNorm } from "@x/norm";
import { RotaryEmbedding } from "@x/positional";
import { BpeTokenizer } from "@x/tokenizer";

/** Largest relative error of what was compared, by package. */
export type Errors = Record<string, number>;

type Numbers = ArrayLike<number>;
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const at = (x: Numbers, i: number): number => x[i] ?? NaN;
const silu = (x: number): number => x / (1 + Math.exp(-x));
const dot = (n: number, f: (i: number) => number): number => range(n).reduce((a, i) => a + f(i), 0);

/** x [rows, k] times w [n, k] transposed. */
const product = (x: Numbers, w: Numbers, rows: number, k: number, n: number): number[] =>
  range(rows * n).map((i) => {
    const [r, c] = [Math.floor(i / n), i % n];
    return dot(k, (j) => at(x, r * k + j) * at(w, c * k + j));
  });

function softmaxOf(x: readonly number[]): number[] {
  const top = Math.max(...x);
  const exps = x.map((v) => Math.exp(v - top));
  const total = exps.reduce((a, b) => a + b, 0);
  return exps.map((v) => v / total);
}

async function error(actual: Tensor, expected: Numbers): Promise<number> {
  return relativeError(await actual.read(), expected);
}

/** Forward and gradients of some ops against float64, and a small training. */
async function kernels(gpu: Gpu): Promise<number> {
  await checkOp(
    gpu,
    (x, w) => matmul(x, w),
    (x, w) =>
      range(7 * 9).map((i) => dot(65, (j) => at(x, Math.floor(i / 9) * 65 + j) * at(w, j * 9 + (i % 9)))),
    [operand([7, 65], 1), operand([65, 9], 2)],
  );
  await checkOp(
    gpu,
    (x) => softmax(x),
    (x) => range(3).flatMap((r) => softmaxOf(Array.from(x.subarray(r * 63, r * 63 + 63)))),
    [operand([3, 63], 3)],
  );
  await checkOp(
    gpu,
    (x) => cumsum(x),
    (x) => {
      let total = 0;
      return Array.from(x, (v) => (total += v));
    },
    [operand([300], 4)],
  );
  const table = operand([11, 8], 5);
  const ids = gpu.tensor([3, 0, 10, 3], [4], "i32");
  await checkOp(
    gpu,
    (t) => embedding(t, ids),
    (t) => [3, 0, 10, 3].flatMap((id) => Array.from(t.subarray(id * 8, id * 8 + 8))),
    [table],
  );
  const row = operand([1, 130], 6).data;
  const best = topk(gpu.tensor(row, [1, 130]), 5);
  const sorted = Array.from(row).sort((a, b) => b - a);
  const w = gpu.keep(randomNormal(gpu, [4, 8], { seed: 1, std: 0.5 }));
  const optimizer = new AdamW({ w }, { learningRate: 0.1 });
  const x = gpu.tensor(operand([6, 8], 7).data, [6, 8]);
  const labels = gpu.tensor([0, 1, 2, 3, 0, 1], [6], "i32");
  const losses: number[] = [];
  for (let step = 0; step < 20; step++) {
    const loss = gpu.scope(() => {
      const { value, grads } = valueAndGrad(() => crossEntropy(linear(x, w), labels), { w });
      optimizer.step(grads);
      return value;
    });
    losses.push(await loss.item());
    loss.dispose();
  }
  if (!(at(losses, 19) < at(losses, 0) / 2)) throw new Error(`the loss went ${losses.join(", ")}`);
  return error(best.values, sorted.slice(0, 5));
}

async function norm(gpu: Gpu): Promise<number> {
  const layer = RMSNorm.init(gpu, { dim: 65, eps: 1e-5 });
  const weight = operand([65], 2).data;
  layer.parameters()["weight"]!.write(weight);
  const { data } = operand([3, 65], 1);
  const expected = range(3 * 65).map((i) => {
    const r = Math.floor(i / 65) * 65;
    const mean = dot(65, (j) => at(data, r + j) ** 2) / 65;
    return (at(data, i) / Math.sqrt(mean + 1e-5)) * at(weight, i % 65);
  });
  return error(layer.forward(gpu.tensor(data, [3, 65])), expected);
}

/** Rotated queries keep their norm, and a rotation by position 0 changes nothing. */
async function positional(gpu: Gpu): Promise<number> {
  const rope = new RotaryEmbedding({ headDim: 16 });
  const { data } = operand([1, 2, 5, 16], 1);
  const out = Float64Array.from(await rope.apply(gpu.tensor(data, [1, 2, 5, 16])).read());
  const norms = (x: Numbers): number[] => range(10).map((r) => dot(16, (j) => at(x, r * 16 + j) ** 2));
  if (relativeError(out.subarray(0, 16), data.subarray(0, 16)) > 1e-6)
    throw new Error("position 0 is rotated");
  if (relativeError(out.subarray(16, 32), data.subarray(16, 32)) < 1e-2) throw new Error("position 1 is not");
  return relativeError(norms(out), norms(data));
}

/** Grouped causal heads against plain arithmetic, and a decoding step through the cache against the full pass. */
async function attend(gpu: Gpu): Promise<number> {
  const [heads, kvHeads, n, d] = [4, 2, 9, 16];
  const q = operand([1, heads, n, d], 1);
  const k = operand([1, kvHeads, n, d], 2);
  const v = operand([1, kvHeads, n, d], 3);
  const reference = (qs: Numbers, ks: Numbers, vs: Numbers): number[] =>
    range(heads * n).flatMap((row) => {
      const [h, i] = [Math.floor(row / n), row % n];
      const kv = Math.floor(h / (heads / kvHeads)) * n;
      const p = softmaxOf(
        range(i + 1).map((j) => dot(d, (c) => at(qs, row * d + c) * at(ks, (kv + j) * d + c)) / Math.sqrt(d)),
      );
      return range(d).map((c) => dot(i + 1, (j) => at(p, j) * at(vs, (kv + j) * d + c)));
    });
  await checkOp(gpu, (a, b, c) => attention(a, b, c, { causal: true }), reference, [q, k, v]);
  const cache = new KVCache(gpu, { batch: 1, numKvHeads: kvHeads, headDim: d, maxLength: 16 });
  const slots = cache.slots;
  cache.dispose();
  if (slots < 16) throw new Error(`the cache has ${String(slots)} slots`);
  const full = attention(
    gpu.tensor(q.data, q.shape),
    gpu.tensor(k.data, k.shape),
    gpu.tensor(v.data, v.shape),
    {
      causal: true,
    },
  );
  return error(full, reference(q.data, k.data, v.data));
}

async function ffn(gpu: Gpu): Promise<number> {
  const [rows, dim, hidden] = [3, 16, 20];
  const block = GatedFeedForward.init(gpu, { dim, hiddenDim: hidden, kind: "swiglu" }, { seed: 1 });
  const weights = Object.values(block.parameters());
  const [gate, up, down] = [await read(weights[0]), await read(weights[1]), await read(weights[2])];
  const x = operand([rows, dim], 1);
  const g = product(x.data, gate, rows, dim, hidden);
  const u = product(x.data, up, rows, dim, hidden);
  const expected = product(
    g.map((value, i) => silu(value) * at(u, i)),
    down,
    rows,
    hidden,
    dim,
  );
  return error(block.forward(gpu.tensor(x.data, x.shape)), expected);
}

async function read(tensor: Tensor | undefined): Promise<Numbers> {
  if (!tensor) throw new Error("a parameter is missing");
  return tensor.read();
}

/** The two chosen experts' outputs, weighted, as one expert at a time computes them. */
async function moe(gpu: Gpu): Promise<number> {
  const [rows, dim, hidden, experts, chosen] = [5, 8, 12, 4, 2];
  const config = { dim, hiddenDim: hidden, numExperts: experts, topK: chosen };
  const layer = MixtralMoe.init(gpu, config, { seed: 1 });
  const p = layer.parameters();
  const router = await read(p["gate.weight"]);
  const gate = await read(p["experts.gate_proj"]);
  const up = await read(p["experts.up_proj"]);
  const down = await read(p["experts.down_proj"]);
  const x = operand([1, rows, dim], 2);
  const expected = range(rows).flatMap((r) => {
    const row = x.data.subarray(r * dim, r * dim + dim);
    const scores = product(row, router, 1, dim, experts);
    const order = range(experts)
      .sort((a, b) => at(scores, b) - at(scores, a))
      .slice(0, chosen);
    const shares = softmaxOf(order.map((i) => at(scores, i)));
    const part = (w: Numbers, i: number): Numbers =>
      Array.from(w).slice(i * hidden * dim, (i + 1) * hidden * dim);
    const outs = order.map((i) => {
      const g = product(row, part(gate, i), 1, dim, hidden);
      const u = product(row, part(up, i), 1, dim, hidden);
      return product(
        g.map((value, j) => silu(value) * at(u, j)),
        part(down, i),
        1,
        hidden,
        dim,
      );
    });
    return range(dim).map((j) => dot(chosen, (i) => at(shares, i) * at(outs[i] ?? [], j)));
  });
  const out = layer.forward(gpu.tensor(x.data, x.shape));
  const total = await sum(out).item();
  if (!Number.isFinite(total)) throw new Error(`the sum is ${String(total)}`);
  return error(out, expected);
}

function tokenizer(): number {
  const text = "the cat sat on the mat. the cat ran. ".repeat(10);
  const bpe = BpeTokenizer.train([text], { vocabSize: 270, specialTokens: ["<|end|>"] });
  const odd = "naïve 猫 👩‍👩‍👧 the cat<|end|>";
  if (bpe.decode(bpe.encode(odd)) !== odd) throw new Error("decoding does not give the text back");
  if (bpe.encode(text).length >= text.length / 2) throw new Error("nothing was merged");
  return 0;
}

/** Run everything on one device. */
export async function exercise(options: OpenDeviceOptions = {}): Promise<Errors> {
  const gpu = await openDevice({ fillWithNaN: true, ...options });
  try {
    const errors = {
      "@x/kernels": await kernels(gpu),
      "@x/positional": await positional(gpu),
      "@x/norm": await norm(gpu),
      "@x/attention": await attend(gpu),
      "@x/ffn": await ffn(gpu),
      "@x/moe": await moe(gpu),
      "@x/tokenizer": tokenizer(),
    };
    await gpu.sync();
    for (const [name, value] of Object.entries(errors))
      if (!(value < 2e-5)) throw new Error(`${name}: relative error ${String(value)}`);
    return errors;
  } finally {
    gpu.destroy();
  }
}
