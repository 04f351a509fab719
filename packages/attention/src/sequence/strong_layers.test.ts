import { describe, expect, it } from "vitest";
import { vjp, type Gpu, type Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import { random } from "../test-support.js";
import {
  GatedRetention,
  GriffinBlock,
  Lru,
  Mamba2Block,
  MambaBlock,
  Rwkv4TimeMix,
  Rwkv6TimeMix,
} from "./index.js";

/** A layer over given parameters, by their names. */
interface Layer {
  forward(x: Tensor): Tensor;
  parameters(): Record<string, Tensor>;
}

const dim = 8;
/** Layers, and the name of the parameter that says how fast a state forgets. */
const layers: Readonly<
  Record<string, { parameter: string; init: (gpu: Gpu) => Layer; make: (p: Record<string, Tensor>) => Layer }>
> = {
  Rwkv4TimeMix: {
    parameter: "time_decay",
    init: (gpu) => Rwkv4TimeMix.init(gpu, { dim }, { seed: 1 }),
    make: (p) => new Rwkv4TimeMix({ dim }, p),
  },
  Rwkv6TimeMix: {
    parameter: "time_decay",
    init: (gpu) => Rwkv6TimeMix.init(gpu, { dim, numHeads: 2 }, { seed: 1 }),
    make: (p) => new Rwkv6TimeMix({ dim, numHeads: 2 }, p),
  },
  MambaBlock: {
    parameter: "A_log",
    init: (gpu) => MambaBlock.init(gpu, { dim, stateSize: 4 }, { seed: 1 }),
    make: (p) => new MambaBlock({ dim, stateSize: 4 }, p),
  },
  Mamba2Block: {
    parameter: "A_log",
    init: (gpu) => Mamba2Block.init(gpu, { dim, numHeads: 2, headDim: 8, stateSize: 4 }, { seed: 1 }),
    make: (p) => new Mamba2Block({ dim, numHeads: 2, headDim: 8, stateSize: 4 }, p),
  },
  GriffinBlock: {
    parameter: "rg_lru.recurrent_param",
    init: (gpu) => GriffinBlock.init(gpu, { dim, numBlocks: 2 }, { seed: 1 }),
    make: (p) => new GriffinBlock({ dim, numBlocks: 2 }, p),
  },
  Lru: {
    parameter: "nu_log",
    init: (gpu) => Lru.init(gpu, { dim, stateSize: 4 }, { seed: 1 }),
    make: (p) => new Lru({ dim, stateSize: 4 }, p),
  },
};

describe("layers whose state forgets at once", () => {
  const device = useGpu();

  it.each(
    Object.keys(layers).flatMap((name) =>
      [20, 50, 89, 1e3].flatMap((value) => [1, 5].map((tokens) => [name, value, tokens] as const)),
    ),
  )("%s, %d, %i tokens: the decay has the gradient 0, and nothing is NaN", async (name, value, tokens) => {
    const { gpu } = device;
    const { parameter, init, make } = layers[name]!;
    const parameters = init(gpu).parameters();
    expect(Object.keys(parameters)).toContain(parameter);
    parameters[parameter] = gpu.full(parameters[parameter]!.shape, value);
    const names = Object.keys(parameters);
    const layer = make(parameters);
    const step = vjp(() => [layer.forward(random(gpu, [1, tokens, dim], 2))], Object.values(parameters));
    const gradients = step.pullback([random(gpu, [1, tokens, dim], 3)]);
    for (const [i, gradient] of gradients.entries()) {
      const values = await gradient.read();
      expect(values.every(Number.isFinite), names[i]).toBe(true);
      if (names[i] === parameter) for (const x of values) expect(Math.abs(x)).toBeLessThan(1e-20);
    }
  });

  it("gated retention whose gate is shut", async () => {
    const { gpu } = device;
    const config = { dim, numHeads: 2, gateLogitNormalizer: 1 };
    const parameters = GatedRetention.init(gpu, config, { seed: 1 }).parameters();
    const x = gpu.tensor(
      Array.from({ length: 5 * dim }, (_, i) => (i % dim === 0 ? 1 : Math.sin(i))),
      [1, 5, dim],
    );
    const gate = parameters["gt_proj.weight"]!;
    parameters["gt_proj.weight"] = gpu.tensor(
      Array.from({ length: gate.size }, (_, i) => (i % dim === 0 ? -200 : 0)),
      gate.shape,
    );
    const layer = new GatedRetention(config, parameters);
    const step = vjp(() => [layer.forward(x)], Object.values(parameters));
    const names = Object.keys(parameters);
    for (const [i, gradient] of step.pullback([random(gpu, x.shape, 3)]).entries()) {
      const values = await gradient.read();
      expect(values.every(Number.isFinite), names[i]).toBe(true);
      if (names[i] === "gt_proj.weight")
        for (const value of values) expect(Math.abs(value)).toBeLessThan(1e-20);
    }
  });
});
