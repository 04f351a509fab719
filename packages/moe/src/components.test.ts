import { describe, expect, it } from "vitest";
import { valueAndGrad, sum, type Module, type Tensor } from "@x/kernels";
import { numbers, relativeError, useGpu } from "@x/testing";
import { DeepSeekMoe, ExpertChoiceMoe, GShardMoe, MixtralMoe, Peer, SwitchMoe } from "./index.js";

const shape = { dim: 8, hiddenDim: 12, numExperts: 4 };
const init = { seed: 3, std: 0.5 };
const deepseek = { ...shape, topK: 2, numShared: 1, scoreFunction: "sigmoid", correctionBias: true } as const;
const peerOptions = { numHeads: 2, topK: 2, queryDim: 4, queryNorm: "batch" } as const;
const peer = { dim: 8, numKeys: 4, ...peerOptions };

interface Layer extends Module {
  forward(x: Tensor): { out: Tensor };
  buffers?(): Record<string, Tensor>;
}

describe("components", () => {
  const device = useGpu();
  const make: Record<string, [() => Layer, (p: Record<string, Tensor>) => Layer]> = {
    MixtralMoe: [
      () => MixtralMoe.init(device.gpu, { ...shape, topK: 2 }, init),
      (p) => MixtralMoe.fromParameters({ topK: 2 }, p),
    ],
    SwitchMoe: [
      () => SwitchMoe.init(device.gpu, { ...shape, capacityFactor: 1.25, activation: "gelu" }, init),
      (p) => SwitchMoe.fromParameters({ capacityFactor: 1.25, activation: "gelu" }, p),
    ],
    GShardMoe: [
      () => GShardMoe.init(device.gpu, { ...shape, capacity: 3, expertKind: "glu" }, init),
      (p) => GShardMoe.fromParameters({ capacity: 3 }, p),
    ],
    ExpertChoiceMoe: [
      () => ExpertChoiceMoe.init(device.gpu, { ...shape, capacityFactor: 2 }, init),
      (p) => ExpertChoiceMoe.fromParameters({ capacityFactor: 2 }, p),
    ],
    DeepSeekMoe: [
      () => DeepSeekMoe.init(device.gpu, deepseek, init),
      (p) => DeepSeekMoe.fromParameters({ topK: 2, scoreFunction: "sigmoid" }, p),
    ],
    Peer: [() => Peer.init(device.gpu, peer, init), (p) => Peer.fromParameters(peerOptions, p)],
  };

  it.each(Object.keys(make))("%s: parameters come and go by name, each has a gradient", async (name) => {
    const { gpu } = device;
    const [init, from] = make[name]!;
    const layer = init();
    const parameters = layer.parameters();
    const x = gpu.tensor(numbers(160, 1), [2, 10, 8]);
    const again = from({ ...parameters, ...layer.buffers?.() });
    expect(Object.keys(again.parameters())).toEqual(Object.keys(parameters));
    const [a, b] = gpu.scope(() => [layer.forward(x).out, again.forward(x).out]);
    expect(a.shape).toEqual(x.shape);
    expect(relativeError(await b.read(), await a.read())).toBe(0);
    const { grads } = valueAndGrad(() => sum(layer.forward(x).out), parameters);
    for (const [key, g] of Object.entries(grads))
      expect([key, Array.from(await g.read()).some((v) => v !== 0)]).toEqual([key, true]);
  });

  it("say what is missing or unknown", () => {
    const { gpu } = device;
    expect(() => SwitchMoe.fromParameters({ capacity: 1 }, {})).toThrow(
      /router\.classifier\.weight is missing/,
    );
    expect(() => GShardMoe.fromParameters({ capacity: 1 }, { "gate.weight": gpu.zeros([2, 2]) })).toThrow(
      /experts\.wi is missing/,
    );
    expect(() => GShardMoe.init(gpu, { ...shape, capcity: 1 } as never, init)).toThrow(/"capacity"/);
    expect(() => SwitchMoe.init(gpu, { ...shape, dim: 0, capacity: 1 }, init)).toThrow(/dim is 0/);
    const expertKind = "mlp" as never;
    expect(() => SwitchMoe.init(gpu, { ...shape, expertKind, capacity: 1 }, init)).toThrow(
      'SwitchMoe: expertKind is "mlp"; it must be one of ffn, glu',
    );
  });
});
