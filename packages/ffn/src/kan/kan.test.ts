import { describe, expect, it } from "vitest";
import { ConfigError, DTypeError, ShapeError, sum, valueAndGrad, type Tensor } from "@x/kernels";
import { checkOp, numbers, operand, relativeError, useGpu } from "@x/testing";
import { activationReference } from "../activation.reference.js";
import { kanBspline } from "./bases/bspline.js";
import { kan } from "./kan.js";
import { bsplineBases, edges, mothers } from "./kan.reference.js";
import { kanChebyshev } from "./bases/chebyshev.js";
import { kanFourier } from "./bases/fourier.js";
import { kanGridUpdate } from "./grid_update.js";
import { kanActivationRegularization, kanWeightRegularization } from "./regularization.js";
import { kanWavelet, WAVELETS } from "./bases/wavelet.js";

const device = useGpu();
const uniform = (G: number, k: number, [low, high]: [number, number]): Float64Array =>
  Float64Array.from({ length: G + 2 * k + 1 }, (_, j) => low + ((j - k) * (high - low)) / G);
const scaled = (shape: number[], seed: number, by: number) => ({
  shape,
  data: operand(shape, seed).data.map((v) => Math.fround(by * v)),
});

describe("kanBspline", () => {
  it.each([
    [5, 3],
    [1, 1],
    [3, 2],
    [8, 5],
    [4, 0],
  ])("G %i, order %i: bases and derivatives, beyond the range too", async (gridSize, splineOrder) => {
    const knots = uniform(gridSize, splineOrder, [-1, 1]);
    await checkOp(
      device.gpu,
      (x) => kanBspline(x, { gridSize, splineOrder }),
      (x) => bsplineBases(x, 3, knots, knots.length, splineOrder),
      [scaled([7, 3], 3, 2.5)],
      // A step has no slope to difference.
      { gradients: splineOrder > 1 },
    );
  });

  it("bases on a grid of each feature", async () => {
    const rising = (seed: number): number[] => {
      let t = -1.5;
      return Array.from(numbers(9, seed), (v) => (t += 0.2 + Math.abs(v)));
    };
    const grid = [...rising(1), ...rising(2)];
    const t = device.gpu.tensor(grid, [2, 9]);
    await checkOp(
      device.gpu,
      (x) => kanBspline(x, { gridSize: 4, splineOrder: 2, grid: t }),
      (x) => bsplineBases(x, 2, grid, 9, 2),
      [scaled([11, 2], 4, 3)],
    );
  });

  it("bases sum to 1 inside, at both ends too, and vanish beyond the knots", async () => {
    const x = device.gpu.tensor([-1, -0.999, -0.2, 0, 0.6, 1, 3, -3, 1e30], [9, 1]);
    const bases = await kanBspline(x).read();
    const sums = Array.from({ length: 9 }, (_, t) =>
      Array.from(bases)
        .slice(t * 8, t * 8 + 8)
        .reduce((a, b) => a + b),
    );
    for (const s of sums.slice(0, 6)) expect(s).toBeCloseTo(1, 5);
    expect(sums.slice(6)).toEqual([0, 0, 0]);
  });

  it("knots that coincide give no NaN", async () => {
    const grid = device.gpu.tensor([0, 0, 0, 1, 1, 2, 2, 2], [1, 8]);
    const bases = await kanBspline(device.gpu.tensor([0, 0.5, 1, 1.5], [4, 1]), {
      gridSize: 3,
      splineOrder: 2,
      grid,
    }).read();
    expect(Array.from(bases).every(Number.isFinite)).toBe(true);
  });

  it("refuses what it cannot do", () => {
    const { gpu } = device;
    const x = gpu.zeros([2, 3]);
    expect(() => kanBspline(x, { gridSize: 0 })).toThrow(/gridSize is 0/);
    expect(() => kanBspline(x, { splineOrder: 1.5 })).toThrow(ConfigError);
    expect(() => kanBspline(x, { gridRange: [1, -1] })).toThrow(/low must be below high/);
    expect(() => kanBspline(x, { grid: gpu.zeros([3, 4]) })).toThrow(ShapeError);
    expect(() => kanBspline(gpu.zeros([2, 3], "i32"))).toThrow(DTypeError);
    expect(() => kanBspline(x, { gridsize: 3 } as never)).toThrow(/did you mean "gridSize"/);
  });
});

describe("half precision", () => {
  const [I, O, G] = [3, 4, 3];
  const spline = [O, I, G + 3];
  const edge = [O, I];
  /** Of every function, the arguments by name and shape, and a call with them. */
  const cases: [string, Record<string, number[]>, (t: Record<string, Tensor>) => unknown][] = [
    [
      "kanBspline",
      { x: [2, I], grid: [I, G + 7] },
      ({ x, grid }) => kanBspline(x!, { gridSize: G, grid: grid! }),
    ],
    [
      "kan",
      { x: [2, I], splineWeight: spline, splineScaler: edge, baseWeight: edge, grid: [I, G + 7] },
      ({ x, splineWeight, ...rest }) => kan(x!, { splineWeight: splineWeight!, ...rest }, { gridSize: G }),
    ],
    [
      "kanChebyshev",
      { x: [2, I], coefficients: [I, O, 4] },
      ({ x, coefficients }) => kanChebyshev(x!, { coefficients: coefficients! }, { degree: 3 }),
    ],
    [
      "kanFourier",
      { x: [2, I], coefficients: [2, O, I, G], bias: [O] },
      ({ x, coefficients, bias }) => kanFourier(x!, { coefficients: coefficients!, bias: bias! }),
    ],
    [
      "kanWavelet",
      { x: [2, I], scale: edge, translation: edge, weight: edge, baseWeight: edge },
      ({ x, scale, translation, weight, baseWeight }) =>
        kanWavelet(
          x!,
          { scale: scale!, translation: translation!, weight: weight!, baseWeight: baseWeight! },
          { baseActivation: "silu" },
        ),
    ],
    [
      "kanWeightRegularization",
      { splineWeight: spline },
      ({ splineWeight }) => kanWeightRegularization(splineWeight!),
    ],
    [
      "kanActivationRegularization",
      { x: [2, I], splineWeight: spline, splineScaler: edge, baseWeight: edge },
      ({ x, splineWeight, ...rest }) =>
        kanActivationRegularization(x!, { splineWeight: splineWeight!, ...rest }, { gridSize: G }),
    ],
  ];

  it.for(cases)("%s refuses it, naming the argument", ([who, shapes, call], { skip }) => {
    const { gpu } = device;
    if (!gpu.features.f16) skip("the adapter has no shader-f16");
    const given = (half?: string): Record<string, Tensor> =>
      Object.fromEntries(
        Object.entries(shapes).map(([name, shape]) => [
          name,
          gpu.zeros(shape, name === half ? "f16" : "f32"),
        ]),
      );
    expect(() => call(given())).not.toThrow();
    for (const name of Object.keys(shapes)) {
      expect(() => call(given(name))).toThrow(DTypeError);
      expect(() => call(given(name))).toThrow(`${who}: ${name} is f16; it must be f32`);
    }
  });
});

describe("kan", () => {
  it.each([true, false])("base %s: value and gradients", async (base) => {
    const [I, O, G, k] = [3, 4, 3, 2];
    const knots = uniform(G, k, [-2, 2]);
    const options = { gridSize: G, splineOrder: k, gridRange: [-2, 2] as const };
    await checkOp(
      device.gpu,
      (x, splineWeight, splineScaler, baseWeight) =>
        base
          ? kan(x, { splineWeight, splineScaler, baseWeight }, { ...options, baseActivation: "gelu" })
          : kan(x, { splineWeight, splineScaler }, { ...options, baseActivation: "none" }),
      (x, w, scaler, wBase) => {
        const phi = bsplineBases(x, I, knots, knots.length, k);
        const n = G + k;
        return edges(x, I, O, (v, o, i, t) => {
          let s = 0;
          for (let g = 0; g < n; g++) s += w[(o * I + i) * n + g]! * phi[(t * I + i) * n + g]!;
          return s * scaler[o * I + i]! + (base ? wBase[o * I + i]! * activationReference.gelu(v) : 0);
        });
      },
      [scaled([2, 5, I], 1, 2.2), operand([O, I, G + k], 2), operand([O, I], 3), operand([O, I], 4)],
    );
  });

  it("refuses a base weight without a base branch, and a branch without one", () => {
    const { gpu } = device;
    const splineWeight = gpu.zeros([2, 3, 8]);
    const x = gpu.zeros([1, 3]);
    expect(() => kan(x, { splineWeight })).toThrow(/baseWeight is missing/);
    expect(() => kan(x, { splineWeight, baseWeight: gpu.zeros([2, 3]) }, { baseActivation: "none" })).toThrow(
      /is given/,
    );
    expect(() => kan(x, { splineWeight: gpu.zeros([2, 3, 7]) }, { baseActivation: "none" })).toThrow(
      ShapeError,
    );
  });
});

describe("kanChebyshev", () => {
  it.each(["tanh", "none"] as const)("squash %s: value and gradients", async (squash) => {
    const [I, O, degree] = [3, 2, 5];
    await checkOp(
      device.gpu,
      (x, coefficients) => kanChebyshev(x, { coefficients }, { degree, squash }),
      (x, c) =>
        edges(x, I, O, (v, o, i) => {
          const z = squash === "tanh" ? Math.tanh(v) : v;
          let [a, b, s] = [1, z, 0];
          for (let n = 0; n <= degree; n++) {
            s += a * c[(i * O + o) * (degree + 1) + n]!;
            [a, b] = [b, 2 * z * b - a];
          }
          return s;
        }),
      [operand([7, I], 1), operand([I, O, degree + 1], 2)],
    );
  });

  it("degree 0 is a constant", async () => {
    const out = kanChebyshev(
      device.gpu.tensor([5, 6], [1, 2]),
      { coefficients: device.gpu.tensor([1, 2, 3, 4], [2, 2, 1]) },
      { degree: 0 },
    );
    expect(Array.from(await out.read())).toEqual([4, 6]);
  });
});

describe("kanFourier", () => {
  it.each([1, 7, 65])("%i frequencies: value and gradients", async (G) => {
    const [I, O] = [3, 2];
    await checkOp(
      device.gpu,
      (x, coefficients, bias) => kanFourier(x, { coefficients, bias }),
      (x, c, bias) =>
        edges(x, I, O, (v, o, i) => {
          let s = i === 0 ? bias[o]! : 0;
          for (let g = 1; g <= G; g++) {
            const at = (o * I + i) * G + g - 1;
            s += Math.cos(g * v) * c[at]! + Math.sin(g * v) * c[O * I * G + at]!;
          }
          return s;
        }),
      [scaled([5, I], 1, 9), operand([2, O, I, G], 2), operand([O], 3)],
      { h: 1e-5 },
    );
  });

  it("refuses a grid of another size than the coefficients'", () => {
    const { gpu } = device;
    expect(() =>
      kanFourier(gpu.zeros([1, 2]), { coefficients: gpu.zeros([2, 3, 2, 4]) }, { gridSize: 5 }),
    ).toThrow(/gridSize is 5; the coefficients have 4/);
  });
});

describe("kanWavelet", () => {
  it.each(WAVELETS)("%s: value and all gradients", async (wavelet) => {
    const [I, O] = [3, 5];
    const options = wavelet === "morlet" ? { wavelet, omega0: 3 } : { wavelet };
    await checkOp(
      device.gpu,
      (x, scale, translation, weight) => kanWavelet(x, { scale, translation, weight }, options),
      (x, scale, translation, weight) =>
        edges(x, I, O, (v, o, i) => {
          const e = o * I + i;
          return weight[e]! * mothers[wavelet]((v - translation[e]!) / scale[e]!, 3);
        }),
      [
        operand([9, I], 1),
        { shape: [O, I], data: operand([O, I], 2).data.map((v) => Math.fround(1 + v / 2)) },
        operand([O, I], 3),
        operand([O, I], 4),
      ],
    );
  });

  it("base branch and batch norm over all tokens", async () => {
    const [I, O] = [2, 3];
    await checkOp(
      device.gpu,
      (x, weight, baseWeight, normWeight, normBias) => {
        const ones = device.gpu.full([O, I], 1);
        return kanWavelet(
          x,
          { scale: ones, translation: device.gpu.zeros([O, I]), weight, baseWeight, normWeight, normBias },
          { wavelet: "dog", baseActivation: "tanh", batchNorm: true, normEps: 1e-3 },
        );
      },
      (x, weight, wBase, gain, bias) => {
        const out = edges(
          x,
          I,
          O,
          (v, o, i) => weight[o * I + i]! * mothers.dog(v) + wBase[o * I + i]! * Math.tanh(v),
        );
        const tokens = out.length / O;
        for (let o = 0; o < O; o++) {
          const column = Array.from({ length: tokens }, (_, t) => out[t * O + o]!);
          const mean = column.reduce((a, b) => a + b) / tokens;
          const variance = column.reduce((a, b) => a + (b - mean) ** 2, 0) / tokens;
          column.forEach(
            (v, t) => (out[t * O + o] = ((v - mean) / Math.sqrt(variance + 1e-3)) * gain[o]! + bias[o]!),
          );
        }
        return out;
      },
      [operand([2, 7, I], 1), operand([O, I], 2), operand([O, I], 3), operand([O], 4), operand([O], 5)],
    );
  });

  it("many tokens in chunks, and far arguments without NaN", async () => {
    const { gpu } = device;
    const x = gpu.tensor(
      numbers(600, 1).map((v) => v * 1e20),
      [300, 2],
    );
    const [scale, translation, weight] = [gpu.full([1, 2], 1e-10), gpu.zeros([1, 2]), gpu.full([1, 2], 1)];
    for (const wavelet of WAVELETS) {
      const out = await kanWavelet(x, { scale, translation, weight }, { wavelet }).read();
      expect(Array.from(out).every((v) => v === 0)).toBe(true);
    }
  });
});

describe("kanWavelet at scale 0", () => {
  it.each(WAVELETS)("%s: the edge adds 0 and gets no gradient, the others theirs", async (wavelet) => {
    const { gpu } = device;
    // The second edge has scale 0, once with x at its centre and once beside it.
    const x = gpu.tensor([0.3, 0.5, -0.2, 0.7], [2, 2]);
    const named = {
      x,
      scale: gpu.tensor([0.8, 0], [1, 2]),
      translation: gpu.tensor([0.1, 0.5], [1, 2]),
      weight: gpu.tensor([1.5, 1e30], [1, 2]),
    };
    const { scale, translation, weight } = named;
    const both = valueAndGrad(() => sum(kanWavelet(x, { scale, translation, weight }, { wavelet })), named);
    const alone = {
      x: gpu.tensor([0.3, -0.2], [2, 1]),
      scale: gpu.tensor([0.8], [1, 1]),
      translation: gpu.tensor([0.1], [1, 1]),
      weight: gpu.tensor([1.5], [1, 1]),
    };
    const one = valueAndGrad(
      () =>
        sum(
          kanWavelet(
            alone.x,
            { scale: alone.scale, translation: alone.translation, weight: alone.weight },
            { wavelet },
          ),
        ),
      alone,
    );
    expect(await both.value.item()).toBeCloseTo(await one.value.item(), 6);
    const dx = await one.grads.x.read();
    expect(relativeError(await both.grads.x.read(), [dx[0]!, 0, dx[1]!, 0])).toBeLessThan(1e-6);
    for (const name of ["scale", "translation", "weight"] as const)
      expect(
        relativeError(await both.grads[name].read(), [(await one.grads[name].read())[0]!, 0]),
        name,
      ).toBeLessThan(1e-6);
  });
});

describe("kanGridUpdate", () => {
  it("keeps the functions where the data are", () => {
    const [N, I, O, G, k] = [400, 2, 3, 6, 3];
    const x = numbers(N * I, 1);
    const splineWeight = numbers(O * I * (G + k), 2);
    // A spline that the new knots can hold too: a cubic polynomial of x, fitted on the old ones first.
    const knots = uniform(G, k, [-1, 1]);
    const n = G + k;
    for (let o = 0; o < O; o++)
      for (let i = 0; i < I; i++)
        for (let j = 0; j < n; j++) {
          const mean = (knots[j + 1]! + knots[j + 2]! + knots[j + 3]!) / 3;
          splineWeight[(o * I + i) * n + j] = (o + 1) * mean + i; // Greville: a line
        }
    const { grid, splineWeight: next } = kanGridUpdate(
      { x, features: I, splineWeight },
      { gridSize: G, splineOrder: k },
    );
    const [before, after] = [
      bsplineBases(x, I, knots, knots.length, k),
      bsplineBases(x, I, grid, knots.length, k),
    ];
    const value = (w: Float64Array, phi: Float64Array): Float64Array =>
      edges(x, I, O, (_, o, i, t) => {
        let s = 0;
        for (let g = 0; g < n; g++) s += w[(o * I + i) * n + g]! * phi[(t * I + i) * n + g]!;
        return s;
      });
    expect(relativeError(value(next, after), value(splineWeight, before))).toBeLessThan(1e-9);
  });

  it.each([
    // [value, margin, first and last inner knot]: the margin's where float32 can hold it, else 1 % of the value.
    [0.5, 0, 0.49, 0.51],
    [0, 0, -0.01, 0.01],
    [-3000, 0, -3030, -2970],
    [1e6, 0.01, 0.99e6, 1.01e6],
    [0.5, 0.01, 0.4998, 0.5002],
  ])("a constant feature of %d with margin %d keeps its functions", (value, margin, first, last) => {
    const [N, G, k, n] = [20, 5, 3, 8];
    const varied = numbers(N, 1);
    const x = Float64Array.from({ length: 2 * N }, (_, i) => (i % 2 === 0 ? value : varied[i >> 1]!));
    const splineWeight = numbers(3 * 2 * n, 2);
    const span = Math.max(1, 1.5 * Math.abs(value));
    const old = [uniform(G, k, [-span, span]), uniform(G, k, [-1, 1])];
    const result = kanGridUpdate(
      { x, features: 2, splineWeight, grid: Float64Array.from(old.flatMap((knots) => [...knots])) },
      { margin },
    );
    const knots = result.grid.slice(0, G + 2 * k + 1);
    expect(knots[k]! - first).toBeCloseTo(0, 9);
    expect(knots[k + G]! - last).toBeCloseTo(0, 9);
    const held = Float32Array.from(knots);
    for (let j = 1; j < held.length; j++) expect(held[j]!).toBeGreaterThan(held[j - 1]!);
    const at = (grid: Float64Array, weights: Float64Array, o: number): number =>
      bsplineBases(Float64Array.of(value), 1, grid, grid.length, k).reduce(
        (s, b, j) => s + b * weights[o * 2 * n + j]!,
        0,
      );
    for (let o = 0; o < 3; o++)
      expect(at(knots, result.splineWeight, o)).toBeCloseTo(at(old[0]!, splineWeight, o), 9);
    expect(result.splineWeight.every(Number.isFinite)).toBe(true);
  });

  it("refuses samples, weights and knots that are no finite numbers, by name", () => {
    const given = { x: numbers(40, 1), features: 2, splineWeight: numbers(32, 2) };
    const bad = (name: string, at: number, v: number) => ({
      ...given,
      [name]: Float64Array.from(given[name as "x"], (old, i) => (i === at ? v : old)),
    });
    expect(() => kanGridUpdate(bad("x", 7, NaN))).toThrow(/x\[7\] is NaN; it must be a finite number/);
    expect(() => kanGridUpdate(bad("x", 0, Infinity))).toThrow(/x\[0\] is Infinity/);
    expect(() => kanGridUpdate(bad("splineWeight", 3, NaN))).toThrow(/splineWeight\[3\] is NaN/);
    expect(() => kanGridUpdate({ ...given, x: 3 as never })).toThrow(/x is 3; it must be a list/);
  });

  it("refuses too few samples and odd sizes", () => {
    const splineWeight = new Float64Array(8);
    expect(() => kanGridUpdate({ x: new Float64Array(5), features: 1, splineWeight })).toThrow(
      /at least G \+ k = 8/,
    );
    expect(() =>
      kanGridUpdate({ x: new Float64Array(9), features: 1, splineWeight: new Float64Array(9) }),
    ).toThrow(ShapeError);
    expect(() =>
      kanGridUpdate({ x: new Float64Array(9), features: 1, splineWeight }, { gridEps: 2 }),
    ).toThrow(ConfigError);
  });
});

describe("kan regularisation", () => {
  const total = (n: Float64Array, a: number, b: number): number[] => {
    const l1 = n.reduce((x, y) => x + y, 0);
    const entropy = -n.reduce((s, v) => s + (v === 0 ? 0 : (v / l1) * Math.log(v / l1)), 0);
    return [a * l1 + b * entropy, l1, entropy];
  };

  it("of the weights", async () => {
    await checkOp(
      device.gpu,
      (w) => {
        const { loss, l1, entropy } = kanWeightRegularization(w, { activationWeight: 0.3, entropyWeight: 2 });
        return [loss, l1, entropy];
      },
      (w) => {
        const n = Float64Array.from({ length: 12 }, (_, e) =>
          w.slice(e * 5, e * 5 + 5).reduce((s, v) => s + Math.abs(v) / 5, 0),
        );
        return total(n, 0.3, 2);
      },
      [operand([3, 4, 5], 1)],
    );
  });

  it("weights that are all 0 give 0 and no slope", async () => {
    const w = device.gpu.zeros([2, 2, 3]);
    const { loss } = kanWeightRegularization(w);
    expect(await loss.item()).toBe(0);
  });

  it.each([true, false])("of the functions, base %s", async (base) => {
    const [I, O, G, k] = [2, 3, 4, 3];
    const knots = uniform(G, k, [-1, 1]);
    await checkOp(
      device.gpu,
      (x, splineWeight, splineScaler, baseWeight) => {
        const weights = base ? { splineWeight, splineScaler, baseWeight } : { splineWeight, splineScaler };
        const options = { gridSize: G, ...(base ? {} : { baseActivation: "none" as const }) };
        const { loss, l1, entropy } = kanActivationRegularization(x, weights, options);
        return [loss, l1, entropy];
      },
      (x, w, scaler, wBase) => {
        const phi = bsplineBases(x, I, knots, knots.length, k);
        const tokens = x.length / I;
        const n = new Float64Array(O * I);
        edges(x, I, O, (v, o, i, t) => {
          const e = o * I + i;
          let s = 0;
          for (let g = 0; g < G + k; g++) s += w[e * (G + k) + g]! * phi[(t * I + i) * (G + k) + g]!;
          n[e]! += Math.abs(s * scaler[e]! + (base ? wBase[e]! * activationReference.silu(v) : 0)) / tokens;
          return 0;
        });
        return total(n, 1, 1);
      },
      [operand([131, I], 1), operand([O, I, G + k], 2), operand([O, I], 3), operand([O, I], 4)],
      { h: 1e-6 },
    );
  });
});
