import { describe, expect, it } from "vitest";
import { vjp, type Tensor } from "@x/kernels";
import { checkOp, operand, useGpu } from "@x/testing";
import {
  GatedRetention,
  MultiScaleRetention,
  type GatedRetentionLayerConfig,
  type MultiScaleRetentionConfig,
  type SequenceForm,
} from "../../index.js";
import { linearReference } from "../../engine/attention.reference.js";
import { expectSame, parametersOf, random, rows } from "../../test-support.js";
import { retentionLayerReference, type RetentionLayerShape } from "./retention_layer.reference.js";
import { expectDecodes } from "../test-support.js";

const silu = (x: number): number => x / (1 + Math.exp(-x));
const FORMS: SequenceForm[] = [{}, { form: "recurrent" }, { form: "chunkwise", chunkSize: 4 }];
const shape = { batch: 2, tokens: 5, dim: 12, heads: 2, offset: 3, eps: 1e-3, gate: silu };

describe("MultiScaleRetention", () => {
  const device = useGpu();
  const config: MultiScaleRetentionConfig = { dim: 12, numHeads: 2, valueDim: 20, normEps: 1e-3 };
  const make = (own: MultiScaleRetentionConfig): MultiScaleRetention =>
    new MultiScaleRetention(own, parametersOf(device.gpu, MultiScaleRetention.plan(own)));

  it("is the float64 layer, with its gradients, through both states", async () => {
    const own: MultiScaleRetentionConfig = {
      ...config,
      decayNorm: true,
      headNorm: "layer",
      decay: [0.9, 0.6],
    };
    const plan = MultiScaleRetention.plan(own);
    const names = Object.keys(plan);
    const gamma = [0.9, 0.6];
    const sizes: RetentionLayerShape = {
      ...shape,
      valueDim: 20,
      frequencies: [1, 0.01, 0.0001],
      layerNorm: true,
      decay: () => (_b, h) => Math.log(gamma[h]!),
      row: (h, t) => {
        let sum = 0;
        for (let j = 0; j <= 3 + t; j++) sum += gamma[h]! ** j;
        return sum ** -0.5;
      },
    };
    await checkOp(
      device.gpu,
      (x, state, ...weights) => {
        const layer = new MultiScaleRetention(
          own,
          Object.fromEntries(names.map((name, i) => [name, weights[i]!])),
        );
        const { out, state: next } = layer.outputs(x, { state, offset: 3 });
        layer.dispose();
        return [out, next];
      },
      (x, state, q, k, v, g, o) => retentionLayerReference(x, { q: q, k: k, v: v, g: g, o: o }, state, sizes),
      [
        operand([2, 5, 12], 1),
        operand([2, 2, 6, 10], 2),
        ...Object.values(plan).map((p, i) => operand(p.shape, 3 + i)),
      ],
    );
  });

  it("gives the same in every form, and decodes it, with each norm, gate and rotation", async () => {
    const { gpu } = device;
    for (const change of [
      {},
      { rotary: "rope", decayNorm: true, decay: "logLinspace", scale: 1 },
      { rotary: "none", headNorm: "none", gateFn: "none", valueDim: 6 },
      { headNorm: "layer", gateFn: "gelu", rotaryBase: 100 },
    ] satisfies Partial<MultiScaleRetentionConfig>[]) {
      const x = random(gpu, [2, 9, 12], 1);
      const outs = FORMS.map((form) => {
        const layer = make({ ...config, ...change, ...form });
        const run = vjp(() => [layer.forward(x)], [x]);
        const [dx] = run.pullback([random(gpu, [2, 9, 12], 2)]);
        layer.dispose();
        return [run.outputs[0]!, dx!] as const;
      });
      for (const [out, dx] of outs.slice(1)) {
        await expectSame(out, outs[0]![0]);
        await expectSame(dx, outs[0]![1], 1e-4);
      }
      const layer = make({ ...config, ...change, form: "chunkwise", chunkSize: 4 });
      const width = "valueDim" in change ? 6 : 20;
      await expectDecodes(gpu, layer, 12, 4 * (2 * 6 * width + 1));
      layer.dispose();
    }
  });

  it("a recorded step replays at the positions that follow", async () => {
    const { gpu } = device;
    const layer = make({ ...config, decayNorm: true });
    const x = random(gpu, [1, 6, 12], 1);
    const whole = await layer.forward(x).read();
    const state = layer.createState({ batch: 1 });
    gpu.scope(() => layer.forward(rows(x, 0, 2), { state }));
    const token = gpu.empty([1, 1, 12]);
    const values = Array.from(await x.read());
    const recording = gpu.record(() => layer.forward(token, { state }));
    for (let t = 2; t < 6; t++) {
      token.write(Float32Array.from(values.slice(t * 12, (t + 1) * 12)));
      if (t > 2) recording.replay();
      else {
        // What recording ran, it ran on other numbers.
        state.clear();
        gpu.scope(() => layer.forward(rows(x, 0, 2), { state }));
        recording.replay();
      }
      await expectSame(recording.outputs, gpu.tensor(whole.slice(t * 12, (t + 1) * 12), [1, 1, 12]));
    }
    recording.dispose();
    state.dispose();
    layer.dispose();
  });

  it("turns to far positions as precisely as to near ones", async () => {
    const { gpu } = device;
    const layer = make({ ...config, rotary: "retnet" });
    // Rotations by the same angle cancel in q.k.
    const x = random(gpu, [1, 4, 12], 1);
    const [near, far] = [0, 200_000].map((offset) => layer.outputs(x, { offset }).out);
    await expectSame(far!, near!, 2e-5);
    layer.dispose();
  });

  it("says what is wrong", () => {
    const { gpu } = device;
    const plan = (change: object) => () => MultiScaleRetention.plan({ ...config, ...change });
    expect(plan({ numHeads: 5 })).toThrow(
      "MultiScaleRetention: dim is 12, numHeads 5; the first must be a multiple of the second",
    );
    expect(plan({ numHeads: 4 })).toThrow("heads have 3 features; to be turned in pairs they must be even");
    expect(plan({ valueDim: 7 })).toThrow("valueDim is 7, numHeads 2");
    expect(plan({ headNorm: "group" })).toThrow('headNorm is "group"');
    expect(plan({ gate: "swish" })).toThrow('unknown key "gate"');
    expect(plan({ decay: [0.5] })).toThrow("decay has 1 numbers; it must have one for each of 2 heads");
    const layer = make({ ...config, denominator: "sumAbs" });
    expect(() => layer.createState({ batch: 1 })).toThrow(
      'denominator is "sumAbs"; it needs a whole sequence',
    );
    const x = random(gpu, [1, 3, 12], 1);
    expect(() => layer.outputs(x, { offset: 2 ** 18 })).toThrow(
      "offset is 262144; it must be an integer in 0..262143",
    );
    expect(() => layer.outputs(x, { state: random(gpu, [1, 2, 6, 6], 1) })).toThrow(
      "state has shape [1, 2, 6, 6]",
    );
    expect(() => layer.forward(random(gpu, [1, 3, 11], 1))).toThrow("x has shape [1, 3, 11]");
    expect(() => layer.forward(gpu.zeros([1, 3, 12], "f16"))).toThrow("x is f16; it must be f32");
    layer.dispose();
  });
});

describe("GatedRetention", () => {
  const device = useGpu();
  const config: GatedRetentionLayerConfig = { dim: 12, numHeads: 2, normEps: 1e-3, gateLogitNormalizer: 2 };
  const make = (own: GatedRetentionLayerConfig): GatedRetention =>
    new GatedRetention(own, parametersOf(device.gpu, GatedRetention.plan(own)));

  it("is the float64 layer, with its gradients, through both states", async () => {
    const plan = GatedRetention.plan(config);
    const names = Object.keys(plan);
    await checkOp(
      device.gpu,
      (x, state, ...weights) => {
        const layer = new GatedRetention(
          config,
          Object.fromEntries(names.map((name, i) => [name, weights[i]!])),
        );
        const { out, state: next } = layer.outputs(x, { state, offset: 3 });
        layer.dispose();
        return [out, next];
      },
      (x, state, q, k, v, g, o, d) => {
        const sizes: RetentionLayerShape = {
          ...shape,
          valueDim: 12,
          frequencies: [0, 1, 2].map((i) => 10000 ** (-i / 3)),
          layerNorm: false,
          decay: (values) => {
            const logits = linearReference(values, d, 12);
            return (b, h, t) => -Math.log1p(Math.exp(-logits[(b * 5 + t) * 2 + h]!)) / 2;
          },
        };
        return retentionLayerReference(x, { q: q, k: k, v: v, g: g, o: o }, state, sizes);
      },
      [
        operand([2, 5, 12], 1),
        operand([2, 2, 6, 6], 2),
        ...Object.values(plan).map((p, i) => operand(p.shape, 3 + i)),
      ],
    );
  });

  it("gives the same in every form, and decodes it", async () => {
    const { gpu } = device;
    const x = random(gpu, [2, 9, 12], 1);
    const outs: Tensor[] = [];
    for (const form of FORMS) {
      const layer = make({ ...config, ...form });
      outs.push(layer.forward(x));
      await expectDecodes(gpu, layer, 12, 4 * (2 * 6 * 12 + 1));
      layer.dispose();
    }
    for (const out of outs.slice(1)) await expectSame(out, outs[0]!);
  });

  it("says what is wrong", () => {
    const plan = (change: object) => () => GatedRetention.plan({ ...config, ...change });
    expect(plan({ gateLogitNormalizer: 0 })).toThrow("GatedRetention: gateLogitNormalizer is 0");
    expect(plan({ decayNorm: true })).toThrow('unknown key "decayNorm"');
    expect(plan({ form: "chunkwise" })).toThrow("chunkSize is undefined");
  });
});
