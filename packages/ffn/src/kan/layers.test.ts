import { describe, expect, it } from "vitest";
import { AdamW, sub, square, mean, valueAndGrad, type Tensor } from "@x/kernels";
import { numbers, relativeError, useGpu } from "@x/testing";
import { KanFeedForward, type KanFeedForwardConfig } from "./feed_forward.js";
import { KanLinear } from "./linear.js";

const device = useGpu();
const families: Record<string, Partial<KanFeedForwardConfig>> = {
  bspline: { basis: "bspline", gridSize: 4 },
  "bspline without base and scaler": { basis: "bspline", baseActivation: "none", scaler: false },
  chebyshev: { basis: "chebyshev", degree: 3 },
  fourier: { basis: "fourier", gridSize: 3 },
  "fourier without bias": { basis: "fourier", gridSize: 3, bias: false },
  wavelet: { basis: "wavelet", wavelet: "dog", baseActivation: "silu" },
  "wavelet with batch norm": { basis: "wavelet", batchNorm: true },
};

describe("KanFeedForward", () => {
  it.each(Object.keys(families))("%s: every parameter is trained, nothing stays allocated", async (name) => {
    const { gpu } = device;
    const config = { dim: 6, hiddenDim: 5, ...families[name] };
    const x = gpu.tensor(numbers(66, 1), [11, 6]);
    const target = gpu.tensor(numbers(66, 2), [11, 6]);
    const block = KanFeedForward.init(gpu, config, { seed: 1 });
    const parameters = block.parameters();
    expect(Object.keys(parameters).every((key) => /^layers\.[01]\./.test(key))).toBe(true);
    const again = new KanFeedForward(config, parameters);
    expect(Array.from(await again.forward(x).read())).toEqual(Array.from(await block.forward(x).read()));
    const loss = (): Tensor => mean(square(sub(block.forward(x), target)));
    const optimizer = new AdamW(parameters, { learningRate: 0.02, weightDecay: 0 });
    const losses: number[] = [];
    let live = 0;
    for (let step = 0; step < 12; step++) {
      const { value, grads } = gpu.scope(() => valueAndGrad(loss, parameters));
      losses.push(await value.item());
      if (step === 0)
        for (const [key, grad] of Object.entries(grads))
          expect(
            Array.from(await grad.read()).some((v) => v !== 0),
            key,
          ).toBe(true);
      optimizer.step(grads);
      for (const t of [value, ...Object.values(grads)]) t.dispose();
      if (step === 1) live = gpu.memory().liveBytes;
    }
    expect(losses.at(-1)!).toBeLessThan(losses[0]!);
    expect(gpu.memory().liveBytes).toBe(live);
  });

  it("refuses unknown families and keys", () => {
    const { gpu } = device;
    const make = (basis: object) => () =>
      KanFeedForward.init(gpu, { dim: 4, hiddenDim: 4, ...basis }, { seed: 1 });
    expect(make({ basis: "legendre" })).toThrow(/basis is "legendre"; it must be one of bspline, chebyshev/);
    expect(make({ basis: "chebyshev", degrees: 3 })).toThrow(/did you mean "degree"/);
    expect(make({ basis: "chebyshev", degree: 3, scaler: true })).toThrow(
      /scaler is given; the basis chebyshev takes degree, squash/,
    );
    expect(make({ basis: "fourier" })).toThrow(/gridSize is missing/);
  });
});

describe("KanLinear", () => {
  it("starts near 0 at the knots and is the same for the same seed", async () => {
    const { gpu } = device;
    const config = { inFeatures: 3, outFeatures: 4, baseActivation: "none", scaler: false } as const;
    const layer = KanLinear.init(gpu, config, { seed: 7 });
    const x = gpu.tensor([-0.6, 0.2, 1], [1, 3]);
    const out = Array.from(await layer.forward(x).read());
    // Three functions, each within 0.1 / 2 G of 0 at a knot.
    for (const v of out) expect(Math.abs(v)).toBeLessThan((3 * 0.1) / 10 + 1e-6);
    expect(out.some((v) => v !== 0)).toBe(true);
    expect(Array.from(await KanLinear.init(gpu, config, { seed: 7 }).forward(x).read())).toEqual(out);
  });

  it("moves its knots to the data without changing what it computes there", async () => {
    const { gpu } = device;
    const config = { inFeatures: 2, outFeatures: 3, gridSize: 3, splineOrder: 3, noise: 3 };
    const layer = KanLinear.init(gpu, config, { seed: 1 });
    // Data on which both grids span the same cubic: inside one interval of either.
    const x = gpu.tensor(
      numbers(200, 3).map((v) => 0.15 * v),
      [100, 2],
    );
    const before = Array.from(await layer.forward(x).read());
    expect(Object.keys(layer.buffers())).toEqual([]);
    await layer.updateGrid(x);
    expect(Object.keys(layer.buffers())).toEqual(["grid"]);
    expect(relativeError(await layer.forward(x).read(), before)).toBeLessThan(1e-4);
    const again = new KanLinear(config, { ...layer.parameters(), ...layer.buffers() });
    expect(Array.from(await again.forward(x).read())).toEqual(Array.from(await layer.forward(x).read()));
  });

  it("gives both kinds of regularisation", async () => {
    const { gpu } = device;
    const layer = KanLinear.init(gpu, { inFeatures: 2, outFeatures: 3 }, { seed: 1 });
    const x = gpu.tensor(numbers(20, 3), [10, 2]);
    for (const { loss } of [layer.regularization(), layer.regularization({ entropyWeight: 0 }, x)])
      expect(await loss.item()).toBeGreaterThan(0);
  });
});
