import { describe, expect, it } from "vitest";
import {
  concat,
  ConfigError,
  matmul,
  sum,
  transpose,
  valueAndGrad,
  type ComponentClass,
  type Tensor,
} from "@x/kernels";
import { numbers, relativeError, useGpu } from "@x/testing";
import {
  DeepSeekMoe,
  ExpertChoiceMoe,
  GptOssMoe,
  GShardMoe,
  MixtralMoe,
  Peer,
  Qwen2Moe,
  stackExperts,
  SwitchMoe,
} from "./index.js";

const shape = { dim: 8, hiddenDim: 12, numExperts: 4 };
const init = { seed: 3 };

interface Layer {
  forward(x: Tensor): Tensor;
  parameters(): Record<string, Tensor>;
  buffers(): Record<string, Tensor>;
  dispose(): void;
}
interface Made {
  readonly plan: () => string[];
  readonly init: () => Layer;
  readonly from: (p: Record<string, Tensor>) => Layer;
}

describe("components", () => {
  const device = useGpu();
  const of = <C>(one: ComponentClass<Layer, C, unknown> & { init: unknown }, config: C): Made => ({
    plan: () => Object.keys(one.plan(config)),
    init: () =>
      (one.init as (gpu: unknown, config: C, init: object) => Layer).call(one, device.gpu, config, init),
    from: (p) => new one(config, p),
  });
  const make: Record<string, Made> = {
    MixtralMoe: of(MixtralMoe, { ...shape, topK: 2 }),
    SwitchMoe: of(SwitchMoe, { ...shape, expertKind: "ffn", activation: "gelu", expertBias: true }),
    GShardMoe: of(GShardMoe, { ...shape, capacity: 3 }),
    ExpertChoiceMoe: of(ExpertChoiceMoe, { ...shape, capacityFactor: 2 }),
    DeepSeekMoe: of(DeepSeekMoe, {
      ...shape,
      topK: 2,
      numShared: 1,
      scoreFunction: "sigmoid",
      correctionBias: true,
    }),
    GptOssMoe: of(GptOssMoe, { ...shape, topK: 2 }),
    Qwen2Moe: of(Qwen2Moe, { ...shape, sharedDim: 6 }),
    Peer: of(Peer, { dim: 8, numKeys: 4, numHeads: 2, topK: 2, queryDim: 4, queryNorm: "batch" }),
  };

  it.each(Object.keys(make))("%s: parameters come and go by name, each has a gradient", async (name) => {
    const { gpu } = device;
    const { plan, init, from } = make[name]!;
    const layer = init();
    const parameters = layer.parameters();
    const x = gpu.tensor(numbers(160, 1), [2, 10, 8]);
    expect(Object.keys({ ...parameters, ...layer.buffers() }).sort()).toEqual(plan().sort());
    const again = from({ ...parameters, ...layer.buffers() });
    expect(Object.keys(again.parameters())).toEqual(Object.keys(parameters));
    const [a, b] = gpu.scope(() => [layer.forward(x), again.forward(x)]);
    expect(a.shape).toEqual(x.shape);
    expect(relativeError(await b.read(), await a.read())).toBe(0);
    const { grads } = valueAndGrad(() => sum(layer.forward(x)), parameters);
    for (const [key, g] of Object.entries(grads))
      expect([key, Array.from(await g.read()).some((v) => v !== 0)]).toEqual([key, true]);
    again.dispose();
    expect((await Object.values(parameters)[0]!.read()).length).toBeGreaterThan(0);
  });

  it("coefficients times the experts' last matrices are the mixture", async () => {
    const { gpu } = device;
    const x = gpu.tensor(numbers(160, 1), [2, 10, 8]);
    const layers = [
      SwitchMoe.init(gpu, { ...shape, expertKind: "ffn", activation: "gelu" }, init),
      GShardMoe.init(gpu, { ...shape, gluKind: "geglu" }, init),
      MixtralMoe.init(gpu, shape, init),
      DeepSeekMoe.init(gpu, { ...shape, numShared: 2 }, init),
      Qwen2Moe.init(gpu, { ...shape, sharedDim: 10, limit: 0.01, upOffset: 1 }, init),
    ];
    for (const layer of layers) {
      const { experts } = layer;
      const last = experts.kind === "glu" ? experts.wDown : experts.w2;
      const shared = "shared" in layer ? layer.shared : undefined;
      const [product, out] = gpu.scope(() => {
        const routed = transpose(last, [1, 0, 2]).reshape([8, 48]);
        const values = shared ? concat([routed, shared.wDown], 1) : routed;
        return [matmul(layer.coefficients(x), values, { transposeB: true }), layer.forward(x)];
      });
      expect(relativeError(await product.read(), await out.read())).toBeLessThan(1e-5);
      layer.dispose();
    }
  });

  it("Switch and GShard drop in training alone", async () => {
    const { gpu } = device;
    const config = { ...shape, capacity: 1 };
    const x = gpu.tensor(numbers(160, 1), [2, 10, 8]);
    for (const layer of [SwitchMoe.init(gpu, config, init), GShardMoe.init(gpu, config, init)]) {
      const [trained, evaluated] = gpu.scope(() => [
        layer.outputs(x, { training: true }).kept,
        layer.outputs(x).kept,
      ]);
      const left = Array.from(await trained.read()).filter((v) => v === 1).length;
      expect(left).toBeGreaterThan(0);
      expect(left).toBeLessThanOrEqual(8);
      expect(Array.from(await evaluated.read()).every((v) => v === 1)).toBe(true);
    }
  });

  it("say what is missing or unknown", () => {
    const { gpu } = device;
    expect(() => new SwitchMoe({ ...shape, capacity: 1 }, {})).toThrow(/experts\.gate_proj is missing/);
    expect(() => new GShardMoe({ ...shape, capacity: 1 }, { "gate.weights": gpu.zeros([2, 2]) })).toThrow(
      /did you mean "gate.weight"/,
    );
    expect(() => GShardMoe.init(gpu, { ...shape, capcity: 1 } as never, init)).toThrow(/"capacity"/);
    expect(() => SwitchMoe.init(gpu, { ...shape, dim: 0, capacity: 1 }, init)).toThrow(/dim is 0/);
    const expertKind = "mlp" as never;
    expect(() => SwitchMoe.init(gpu, { ...shape, expertKind, capacity: 1 }, init)).toThrow(
      'SwitchMoe: expertKind is "mlp"; it must be one of glu, ffn',
    );
    expect(() => SwitchMoe.plan({ ...shape, activation: "gelu" })).toThrow(/only expertKind "ffn" has one/);
    expect(() => SwitchMoe.plan({ ...shape, expertKind: "ffn", gluKind: "geglu" })).toThrow(
      /only expertKind "glu" has one/,
    );
    expect(() => GShardMoe.plan({ ...shape, numExperts: 1 })).toThrow(ConfigError);
    expect(() => MixtralMoe.plan({ ...shape, topK: 5 })).toThrow(/topK is 5/);
    expect(() => MixtralMoe.plan({ ...shape, gluKind: "geglu", beta: 2 })).toThrow(/only swiglu has one/);
    expect(() => SwitchMoe.plan({ ...shape, expertKind: "ffn", limit: 7 })).toThrow(
      'SwitchMoe: limit is given; only expertKind "glu" has one',
    );
    expect(() => GptOssMoe.plan({ ...shape, topK: 5 })).toThrow(/topK is 5/);
    expect(() => Peer.plan({ dim: 4, numKeys: 4, numHeads: 1, topK: 2, queryDim: 3 })).toThrow(
      /must be even/,
    );
  });

  it("stacks experts that a checkpoint holds one by one", async () => {
    const { gpu } = device;
    const parts: Record<string, Tensor> = { "gate.weight": gpu.zeros([3, 2]) };
    for (let e = 0; e < 3; e++) {
      parts[`experts.${e}.gate_proj.weight`] = gpu.full([4, 2], e);
      parts[`experts.${e}.up_proj.weight`] = gpu.full([4, 2], 10 + e);
      parts[`experts.${e}.down_proj.weight`] = gpu.full([2, 4], 20 + e);
    }
    const stacked = stackExperts(parts);
    expect(stacked["gate.weight"]).toBe(parts["gate.weight"]);
    expect(stacked["experts.gate_proj"]!.shape).toEqual([3, 4, 2]);
    expect(Array.from(await stacked["experts.down_proj"]!.read())).toEqual(
      [20, 21, 22].flatMap((v) => Array<number>(8).fill(v)),
    );
    const layer = new DeepSeekMoe({ dim: 2, hiddenDim: 4, numExperts: 3 }, stacked);
    expect(layer.forward(gpu.zeros([1, 2, 2])).shape).toEqual([1, 2, 2]);
    delete parts["experts.1.up_proj.weight"];
    expect(() => stackExperts(parts)).toThrow(/experts\.1\.up_proj\.weight is missing/);
  });
});
