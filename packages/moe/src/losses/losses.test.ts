import { describe, expect, it } from "vitest";
import { ConfigError, DTypeError, ShapeError, vjp } from "@x/kernels";
import { checkOp, numbers, operand, useGpu } from "@x/testing";
import {
  auxFreeBias,
  deepseekBalanceLoss,
  importanceLoss,
  loadBalanceLoss,
  routerZLoss,
  type DeepSeekBalanceOptions,
  type ImportanceLossOptions,
  type LoadBalanceOptions,
} from "../index.js";
import { erf, row, sigmoid, softmax, softplus, sum, times, topk } from "../moe.reference.js";

const groupsOf = (by: "batch" | "sequence" | undefined, B: number): number => (by === "sequence" ? B : 1);

describe("balancing losses", () => {
  const device = useGpu();
  const [B, T, E] = [2, 9, 5];
  const mask = Array.from({ length: B * T }, (_, t) => (t % 4 === 1 ? 0 : 1));

  it.each<LoadBalanceOptions & { masked?: boolean }>([
    {},
    { groupBy: "sequence", alpha: 0.5 },
    { kind: "gshard" },
    { kind: "topk", topK: 3, groupBy: "sequence" },
    { kind: "topk", topK: 2, masked: true },
    { masked: true, groupBy: "sequence" },
  ])("loadBalanceLoss %j: float64 values and gradients", async ({ masked, ...options }) => {
    const { gpu } = device;
    const { kind = "switch", alpha = 1, topK = 1 } = options;
    const G = groupsOf(options.groupBy, B);
    const seen = masked ? mask : mask.map(() => 1);
    await checkOp(
      gpu,
      (logits) => {
        const given = masked ? { mask: gpu.tensor(mask, [B, T], "i32") } : {};
        const { loss, fraction, meanProb } = loadBalanceLoss(logits, { ...options, ...given });
        return [loss, fraction, meanProb];
      },
      (logits) => {
        const [fs, ps]: [number[], number[]] = [[], []];
        let loss = 0;
        for (let g = 0; g < G; g++) {
          const [f, p] = [new Array<number>(E).fill(0), new Array<number>(E).fill(0)];
          const tokens = Array.from({ length: (B * T) / G }, (_, t) => (g * B * T) / G + t).filter(
            (t) => seen[t],
          );
          for (const t of tokens) {
            const l = row(logits, t, E);
            softmax(l).forEach((v, e) => (p[e]! += v / tokens.length));
            for (const e of topk(l, kind === "topk" ? topK : 1)) f[e]! += 1 / tokens.length;
          }
          loss += (alpha * (kind === "gshard" ? 1 / E : E) * sum(f.map((v, e) => v * p[e]!))) / G;
          fs.push(...f);
          ps.push(...p);
        }
        return [loss, ...fs, ...ps];
      },
      [operand([B, T, E], 1)],
      { h: 1e-5 },
    );
  });

  it("is 1 (topk: K) where routing is even", async () => {
    const { gpu } = device;
    // Token t prefers experts t mod 4 and t + 1 mod 4; probabilities average to even.
    const logits = gpu.tensor(
      Array.from({ length: 8 * 4 }, (_, i) => [3, 2, 0, 0][((((i % 4) - Math.floor(i / 4)) % 4) + 4) % 4]!),
      [1, 8, 4],
    );
    expect(await loadBalanceLoss(logits).loss.item()).toBeCloseTo(1, 5);
    expect(await loadBalanceLoss(logits, { kind: "topk", topK: 2 }).loss.item()).toBeCloseTo(2, 5);
  });

  it.each([false, true])(
    "routerZLoss, masked %s: float64 values and gradients, without overflow",
    async (masked) => {
      const { gpu } = device;
      const seen = masked ? mask : mask.map(() => 1);
      for (const scale of [1, 200])
        await checkOp(
          gpu,
          (logits) =>
            routerZLoss(logits, { alpha: 0.3, ...(masked ? { mask: gpu.tensor(mask, [B, T], "i32") } : {}) }),
          (logits) => {
            let total = 0;
            for (let t = 0; t < B * T; t++) {
              const l = row(logits, t, E);
              const top = Math.max(...l);
              total += seen[t]! * (top + Math.log(sum(l.map((v) => Math.exp(v - top))))) ** 2;
            }
            return [(0.3 * total) / sum(seen)];
          },
          [{ shape: [B, T, E], data: numbers(B * T * E, 3).map((v) => Math.fround(v * scale)) }],
          { h: 1e-4 * scale },
        );
    },
  );

  it.each<Omit<ImportanceLossOptions, "noise" | "wNoise"> & { clean?: boolean }>([
    { topK: 2 },
    { topK: 1, noiseEps: 0, wImportance: 0.1, wLoad: 0.3 },
    { topK: 4, unbiased: true, eps: 1e-3, noiseEps: 0.2 },
    { topK: 3, clean: true },
    { topK: 5, clean: true, unbiased: true },
  ])(
    "importanceLoss %j: float64 values and gradients, through the threshold too",
    async ({ clean, ...o }) => {
      const D = 6;
      const { topK, wImportance = 1, wLoad = 1, noiseEps = 1e-2, eps = 1e-10, unbiased = false } = o;
      const squaredVariation = (v: number[]): number => {
        const mean = sum(v) / E;
        return sum(v.map((x) => (x - mean) ** 2)) / (unbiased ? E - 1 : E) / (mean ** 2 + eps);
      };
      await checkOp(
        device.gpu,
        (...[x, w, noise, wNoise]) => {
          const r = importanceLoss(x!, w!, { ...o, ...(clean ? {} : { noise, wNoise }) });
          return [r.gates, r.importance, r.importanceLoss, ...(r.load ? [r.load, r.loadLoss!] : [])];
        },
        (...[x, w, noise, wNoise]) => {
          const [importance, load] = [new Array<number>(E).fill(0), new Array<number>(E).fill(0)];
          const gates: number[] = [];
          for (let t = 0; t < B * T; t++) {
            const token = row(x!, t, D);
            const plain = times(w!, token, E);
            const std = times(wNoise!, token, E).map((v) => softplus(v) + noiseEps);
            const h = plain.map((v, e) => (clean ? v : v + noise![t * E + e]! * std[e]!));
            const order = topk(h, E);
            const shares = softmax(order.slice(0, topK).map((e) => h[e]!));
            const g = new Array<number>(E).fill(0);
            order.slice(0, topK).forEach((e, i) => (g[e] = shares[i]!));
            gates.push(...g);
            g.forEach((v, e) => (importance[e]! += v));
            if (clean) continue;
            for (let e = 0; e < E; e++) {
              const threshold = h[order.filter((other) => other !== e)[topK - 1]!]!;
              load[e]! += 0.5 * (1 + erf((plain[e]! - threshold) / std[e]! / Math.SQRT2));
            }
          }
          return [
            ...gates,
            ...importance,
            wImportance * squaredVariation(importance),
            ...(clean ? [] : [...load, wLoad * squaredVariation(load)]),
          ];
        },
        [operand([B, T, D], 1), operand([E, D], 2), operand([B, T, E], 3), operand([E, D], 4)],
        { h: 1e-5, gradientTolerance: 2e-4 },
      );
    },
  );

  it.each<DeepSeekBalanceOptions>([
    {},
    { scoreFunction: "sigmoid", groupBy: "sequence", alpha: 0.1 },
    { kind: "device", numDevices: 3, groupBy: "sequence" },
    { kind: "communication", numDevices: 3, maxDevices: 2, scoreFunction: "sigmoid" },
  ])("deepseekBalanceLoss %j: float64 values and gradients", async (options) => {
    const { gpu } = device;
    const [experts, K] = [6, 3];
    const { kind = "expert", alpha = 1 } = options;
    const G = groupsOf(options.groupBy, B);
    const devices = kind === "expert" ? experts : options.numDevices!;
    const width = experts / devices;
    const chosen = Array.from({ length: B * T }, (_, t) => topk(numbers(experts, t + 1), K));
    await checkOp(
      gpu,
      (logits) => {
        const r = deepseekBalanceLoss(logits, gpu.tensor(chosen.flat(), [B, T, K], "i32"), options);
        return [r.loss, r.f, r.p];
      },
      (logits) => {
        const [fs, ps]: [number[], number[]] = [[], []];
        let loss = 0;
        const S = (B * T) / G;
        for (let g = 0; g < G; g++) {
          const [f, p] = [new Array<number>(devices).fill(0), new Array<number>(devices).fill(0)];
          for (let t = g * S; t < (g + 1) * S; t++) {
            const l = row(logits, t, experts);
            const each = l.map(sigmoid);
            const s = options.scoreFunction === "sigmoid" ? each.map((v) => v / sum(each)) : softmax(l);
            s.forEach((v, e) => (p[Math.floor(e / width)]! += v / S));
            const at = chosen[t]!.map((e) => Math.floor(e / width));
            if (kind === "communication")
              for (const d of new Set(at)) f[d]! += devices / (options.maxDevices! * S);
            else for (const d of at) f[d]! += experts / (K * S) / (kind === "device" ? width : 1);
          }
          loss += (alpha * sum(f.map((v, d) => v * p[d]!))) / G;
          fs.push(...f);
          ps.push(...p);
        }
        return [loss, ...fs, ...ps];
      },
      [operand([B, T, experts], 1)],
    );
  });

  it("auxFreeBias moves by the sign alone, exact where the mean is no integer", async () => {
    const { gpu } = device;
    const counts = [7, 2, 3, 5, 4, 4, 4];
    const mean = sum(counts) / counts.length;
    const bias = gpu.zeros([7]);
    const next = auxFreeBias(bias, gpu.tensor(counts, [7], "i32"), { updateSpeed: 0.5 });
    expect(Array.from(await next.read())).toEqual(counts.map((c) => 0.5 * Math.sign(mean - c)));
    const even = auxFreeBias(bias, gpu.full([7], 7777777, "i32"));
    expect(Array.from(await even.read())).toEqual(new Array(7).fill(0));
  });

  it("importanceLoss is 0 with a gradient of 0 where no expert is loaded and eps is 0", async () => {
    const { gpu } = device;
    const [x, w, wNoise] = [gpu.full([1, 5, 2], 0.5), gpu.zeros([4, 2]), gpu.zeros([4, 2])];
    // The noise alone decides, and to be chosen with a new draw is as good as impossible: every load is 0.
    const noise = gpu.full([1, 5, 4], 100);
    const options = { topK: 2, eps: 0, noise, wNoise };
    const r = vjp(() => {
      const { load, loadLoss, importanceLoss: loss } = importanceLoss(x, w, options);
      return [load!, loadLoss!, loss];
    }, [x, w, wNoise]);
    expect(Array.from(await r.outputs[0]!.read())).toEqual([0, 0, 0, 0]);
    expect(await r.outputs[1]!.item()).toBe(0);
    const grads = r.pullback([undefined, gpu.full([1], 1), undefined]);
    for (const g of grads) expect(Array.from(await g.read()).every((v) => v === 0)).toBe(true);
    // All tokens choose the experts 0 and 1 with gates 1/2: importance 2.5, 2.5, 0, 0 has CV^2 1.
    expect(await r.outputs[2]!.item()).toBeCloseTo(1, 6);
  });

  it("refuse what does not fit", () => {
    const { gpu } = device;
    const [logits, flat] = [gpu.zeros([2, 3, 4]), gpu.zeros([6, 4])];
    expect(() => loadBalanceLoss(logits, { kind: "topk" })).toThrow(/needs topK/);
    expect(() => loadBalanceLoss(logits, { kind: "mean" as never })).toThrow(ConfigError);
    expect(() => loadBalanceLoss(flat, { groupBy: "sequence" })).toThrow(/groups by sequence/);
    expect(() => loadBalanceLoss(logits, { mask: gpu.zeros([2, 4], "i32") })).toThrow(
      /mask has shape \[2, 4\]/,
    );
    expect(() => loadBalanceLoss(logits, { mask: gpu.zeros([2, 3]) })).toThrow("mask is f32; it must be i32");
    expect(() => routerZLoss(logits, { mask: gpu.zeros([2, 3]) })).toThrow("mask is f32; it must be i32");
    expect(() => routerZLoss(logits, { mask: gpu.zeros([6], "i32") })).toThrow(/mask has shape \[6\]/);
    expect(() => routerZLoss(logits, { beta: 1 } as never)).toThrow(/unknown key "beta"/);
    const indices = gpu.zeros([2, 3, 2], "i32");
    expect(() => deepseekBalanceLoss(logits, indices, { kind: "device" })).toThrow(/needs numDevices/);
    expect(() => deepseekBalanceLoss(logits, indices, { kind: "device", numDevices: 3 })).toThrow(
      /equal devices/,
    );
    expect(() => deepseekBalanceLoss(logits, indices, { kind: "communication", numDevices: 2 })).toThrow(
      /needs maxDevices/,
    );
    expect(() => deepseekBalanceLoss(logits, gpu.zeros([2, 3, 2]))).toThrow(DTypeError);
    expect(() => deepseekBalanceLoss(logits, gpu.zeros([3, 3, 2], "i32"))).toThrow(ShapeError);
    const [x, w] = [gpu.zeros([2, 3]), gpu.zeros([4, 3])];
    expect(() => importanceLoss(x, w, { topK: 4, noise: gpu.zeros([2, 4]), wNoise: w })).toThrow(
      /fewer than all/,
    );
    expect(() => importanceLoss(x, w, { topK: 2, noise: gpu.zeros([2, 4]) })).toThrow(/together/);
    expect(() => importanceLoss(x, w, { topK: 2, noiseEps: -1 })).toThrow(/noiseEps is -1/);
    expect(() => importanceLoss(x, w, { topK: 2, unbiased: 1 as never })).toThrow(/unbiased is 1/);
    expect(() => auxFreeBias(gpu.zeros([3]), gpu.zeros([3]))).toThrow(DTypeError);
    expect(() => auxFreeBias(gpu.zeros([3]), gpu.zeros([4], "i32"))).toThrow(ShapeError);
  });
});
