import { describe, expect, it } from "vitest";
import { linear, vjp, type Tensor } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import {
  linearAttention,
  LinearAttention,
  type LinearAttentionLayerConfig,
  type LinearAttentionOptions,
} from "../../index.js";
import type { Numbers } from "../../engine/attention.reference.js";
import { expectSame, parametersOf, random } from "../../test-support.js";
import { expectDecodes } from "../test-support.js";

const MAPS: Record<string, (x: number) => number> = {
  elu1: (x) => (x < 0 ? Math.exp(x) : x + 1),
  relu: (x) => Math.max(x, 0),
  identity: (x) => x,
};

interface Shape {
  readonly heads: number;
  readonly tokens: number;
  readonly dim: number;
  readonly valueDim: number;
}

/** Weights phi(q_t) . phi(k_u) of all pairs: the output, S and z. */
function reference(
  q: Numbers,
  k: Numbers,
  v: Numbers,
  { heads, tokens, dim, valueDim }: Shape,
  { featureMap = "elu1", normalize = true, eps = 1e-6, causal = true }: LinearAttentionOptions,
  state?: Numbers,
  zState?: Numbers,
): { out: Float64Array; state: Float64Array; zState: Float64Array } {
  const phi = MAPS[featureMap]!;
  const out = new Float64Array(heads * tokens * valueDim);
  const S = Float64Array.from(state ?? new Float64Array(heads * dim * valueDim));
  const z = Float64Array.from(zState ?? new Float64Array(heads * dim));
  const add = (h: number, t: number): void => {
    for (let d = 0; d < dim; d++) {
      const f = phi(k[(h * tokens + t) * dim + d]!);
      z[h * dim + d]! += f;
      for (let n = 0; n < valueDim; n++)
        S[(h * dim + d) * valueDim + n]! += f * v[(h * tokens + t) * valueDim + n]!;
    }
  };
  for (let h = 0; h < heads; h++) {
    if (!causal) for (let t = 0; t < tokens; t++) add(h, t);
    for (let t = 0; t < tokens; t++) {
      if (causal) add(h, t);
      let sum = eps;
      for (let d = 0; d < dim; d++) {
        const f = phi(q[(h * tokens + t) * dim + d]!);
        sum += f * z[h * dim + d]!;
        for (let n = 0; n < valueDim; n++)
          out[(h * tokens + t) * valueDim + n]! += f * S[(h * dim + d) * valueDim + n]!;
      }
      if (normalize) for (let n = 0; n < valueDim; n++) out[(h * tokens + t) * valueDim + n]! /= sum;
    }
  }
  return { out, state: S, zState: z };
}

const FORMS: LinearAttentionOptions[] = [{}, { form: "recurrent" }, { form: "chunkwise", chunkSize: 4 }];

describe("linearAttention", () => {
  const device = useGpu();
  const shape: Shape = { heads: 3, tokens: 7, dim: 4, valueDim: 5 };
  const operands = [operand([1, 3, 7, 4], 1), operand([1, 3, 7, 4], 2), operand([1, 3, 7, 5], 3)];

  it.each(FORMS)("is the float64 sums, with gradients, through both states: %o", async (form) => {
    const state = operand([1, 3, 4, 5], 4);
    const z = operand([1, 3, 4], 5);
    const positive = { ...z, data: z.data.map((x) => x + 2) };
    await checkOp(
      device.gpu,
      (q, k, v, state, zState) => {
        const r = linearAttention(q, k, v, { ...form, state, zState });
        return [r.out, r.state!, r.zState!];
      },
      (q, k, v, s, z) => {
        const r = reference(q, k, v, shape, {}, s, z);
        return Float64Array.from([...r.out, ...r.state, ...r.zState]);
      },
      [...operands, state, positive],
    );
  });

  it("has maps, sums that are not divided, and sums over all tokens", async () => {
    for (const config of [
      { featureMap: "identity", normalize: false, form: "chunkwise", chunkSize: 3 },
      { featureMap: "relu", eps: 0.5 },
      { causal: false },
      { causal: false, normalize: false, featureMap: "relu" },
    ] satisfies LinearAttentionOptions[])
      await checkOp(
        device.gpu,
        (q, k, v) => linearAttention(q, k, v, config).out,
        (q, k, v) => reference(q, k, v, shape, config).out,
        operands,
      );
  });

  it.each([
    [1, 33, 5],
    [65, 5, 33],
    [100, 8, 8],
  ])("%i tokens of %i by %i: forms agree", async (tokens, dim, valueDim) => {
    const { gpu } = device;
    const [q, k] = [random(gpu, [1, 3, tokens, dim], 1), random(gpu, [1, 3, tokens, dim], 2)];
    const v = random(gpu, [1, 3, tokens, valueDim], 3);
    const r = reference(
      await q.read(),
      await k.read(),
      await v.read(),
      { heads: 3, tokens, dim, valueDim },
      { eps: 0.5 },
    );
    const gradients: Tensor[][] = [];
    for (const form of FORMS) {
      const run = vjp(() => [linearAttention(q, k, v, { ...form, eps: 0.5 }).out], [q, k, v]);
      await expectSame(run.outputs[0]!, gpu.tensor(r.out, v.shape));
      gradients.push(run.pullback([random(gpu, v.shape, 4)]));
    }
    for (const other of gradients.slice(1))
      for (const [i, gradient] of other.entries()) await expectSame(gradient, gradients[0]![i]!, 3e-5);
  });

  it("says what is wrong", () => {
    const { gpu } = device;
    const x = random(gpu, [1, 2, 5, 4], 1);
    const state = random(gpu, [1, 2, 4, 4], 2);
    const z = random(gpu, [1, 2, 4], 3);
    const call = (options: LinearAttentionOptions) => () => linearAttention(x, x, x, options);
    expect(call({ featureMap: "elu" as never })).toThrow(
      'linearAttention: featureMap is "elu"; it must be one of',
    );
    expect(call({ causal: false, state })).toThrow("state is given, causal is false; only causal sums go on");
    expect(call({ causal: false, form: "recurrent" })).toThrow("form is recurrent, causal is false");
    expect(call({ normalize: false, zState: z })).toThrow(
      "zState is given, normalize is false; there is no sum",
    );
    expect(call({ zState: state })).toThrow("zState has shape [1, 2, 4, 4]; it must be [1, 2, 4]");
    expect(call({ eps: -1 })).toThrow("eps is -1");
    expect(() => linearAttention(x, x, gpu.zeros([1, 2, 5, 4], "f16"))).toThrow("v is f16; it must be f32");
  });
});

describe("LinearAttention", () => {
  const device = useGpu();
  const config: LinearAttentionLayerConfig = { dim: 12, numHeads: 3 };
  const make = (own: LinearAttentionLayerConfig): LinearAttention =>
    new LinearAttention(own, parametersOf(device.gpu, LinearAttention.plan(own)));

  it("gives the same in every form, and decodes it", async () => {
    const { gpu } = device;
    const x = random(gpu, [2, 9, 12], 1);
    const outs: Tensor[] = [];
    for (const form of FORMS) {
      const layer = make({ ...config, ...form });
      outs.push(layer.forward(x));
      await expectDecodes(gpu, layer, 12, 4 * 2 * 3 * (16 + 4));
    }
    for (const out of outs.slice(1)) await expectSame(out, outs[0]!);
    await expectDecodes(
      gpu,
      make({ ...config, normalize: false, featureMap: "identity" }),
      12,
      4 * 2 * 3 * 16,
    );
  });

  it("sees all tokens where it is not causal, by the operator between projections", async () => {
    const { gpu } = device;
    const own = { ...config, numHeads: 1, causal: false };
    const layer = make(own);
    const p = parametersOf(gpu, LinearAttention.plan(own));
    const x = random(gpu, [1, 6, 12], 1);
    const cut = (name: string): Tensor => linear(x, p[`${name}.weight`]!).reshape([1, 1, 6, 12]);
    const { out } = linearAttention(cut("q_proj"), cut("k_proj"), cut("v_proj"), { causal: false });
    await expectSame(layer.forward(x), linear(out.reshape([1, 6, 12]), p["o_proj.weight"]!));
    expect(() => layer.createState({ batch: 1 })).toThrow("LinearAttention: causal is false");
  });

  it("says what is wrong", () => {
    expect(() => LinearAttention.plan({ ...config, numHeads: 5 })).toThrow("dim is 12, numHeads 5");
    expect(() => LinearAttention.plan({ ...config, map: "relu" } as never)).toThrow('unknown key "map"');
    expect(() => make(config).forward(random(device.gpu, [1, 3, 11], 1))).toThrow("x has shape [1, 3, 11]");
  });
});
