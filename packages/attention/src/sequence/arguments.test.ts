import { describe, expect, it } from "vitest";
import { KernelsError, type Gpu, type Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import * as sequence from "./index.js";

/* Every public function and layer refuses what it does not know, with an error of the package, before the work starts. */

type Loose = (...args: unknown[]) => unknown;
const isTensor = (value: unknown): value is Tensor =>
  typeof value === "object" && value !== null && "gpu" in value;

const f = (gpu: Gpu, ...shape: number[]): Tensor => gpu.full(shape, 0.5);
const what = (value: unknown): string =>
  isTensor(value) ? "a tensor" : value === undefined ? "undefined" : JSON.stringify(value);

/** Valid arguments of every operator; the last ones are options. */
const CALLS: Readonly<Record<string, (gpu: Gpu) => readonly unknown[]>> = {
  ...Object.fromEntries(
    ["deltaRule", "gatedDeltaRule", "kda", "gatedLinearAttention", "gatedRetention", "retention"].map(
      (name) => [
        name,
        (gpu: Gpu) => {
          const rows = f(gpu, 1, 2, 3, 4);
          const scalars = f(gpu, 1, 2, 3);
          const more = {
            deltaRule: [scalars],
            gatedDeltaRule: [scalars, scalars],
            kda: [rows, scalars],
            gatedLinearAttention: [rows],
            gatedRetention: [scalars],
            retention: [],
          }[name]!;
          return [rows, rows, rows, ...more, { state: f(gpu, 1, 2, 4, 4), scale: 1 }];
        },
      ],
    ),
  ),
  linearAttention: (gpu) => [
    f(gpu, 1, 2, 3, 4),
    f(gpu, 1, 2, 3, 4),
    f(gpu, 1, 2, 3, 4),
    { state: f(gpu, 1, 2, 4, 4), zState: f(gpu, 1, 2, 4), eps: 1, normalize: true, causal: true },
  ],
  ssd: (gpu) => [
    f(gpu, 1, 2, 3, 4),
    f(gpu, 1, 2, 3),
    f(gpu, 1, 1, 3, 5),
    f(gpu, 1, 1, 3, 5),
    { a: f(gpu, 2), dSkip: f(gpu, 2) },
    { state: f(gpu, 1, 2, 4, 5), dtSoftplus: true, dtLimit: [0, 1] },
  ],
  rwkv6: (gpu) => {
    const rows = f(gpu, 1, 2, 3, 4);
    return [rows, rows, rows, rows, f(gpu, 2, 4), { state: f(gpu, 1, 2, 4, 4) }];
  },
  wkv: (gpu) => [
    f(gpu, 1, 3, 4),
    f(gpu, 1, 3, 4),
    f(gpu, 4),
    f(gpu, 4),
    { num: f(gpu, 1, 4), den: f(gpu, 1, 4), max: f(gpu, 1, 4) },
  ],
  selectiveScan: (gpu) => [
    f(gpu, 1, 3, 4),
    f(gpu, 1, 3, 4),
    f(gpu, 4, 2),
    f(gpu, 1, 3, 2),
    f(gpu, 1, 3, 2),
    { z: f(gpu, 1, 3, 4), state: f(gpu, 1, 4, 2), dSkip: f(gpu, 4), deltaSoftplus: true },
  ],
  rgLru: (gpu) => [
    f(gpu, 1, 3, 4),
    {
      wInput: f(gpu, 1, 4, 4),
      bInput: f(gpu, 1, 4),
      wRec: f(gpu, 1, 4, 4),
      bRec: f(gpu, 1, 4),
      aParam: f(gpu, 4),
    },
    { state: f(gpu, 1, 4), c: 8 },
  ],
  lru: (gpu) => [
    f(gpu, 1, 3, 4),
    {
      ...{ nuLog: f(gpu, 2), thetaLog: f(gpu, 2), gammaLog: f(gpu, 2) },
      ...{ b: f(gpu, 2, 4, 2), c: f(gpu, 4, 2, 2), dSkip: f(gpu, 4) },
    },
    { state: f(gpu, 1, 2, 2), residual: f(gpu, 1, 3, 4) },
  ],
  s5: (gpu) => [
    f(gpu, 1, 3, 4),
    {
      ...{ lambdaRe: f(gpu, 2), lambdaIm: f(gpu, 2), logStep: f(gpu, 2) },
      ...{ b: f(gpu, 2, 4, 2), c: f(gpu, 4, 2, 2), dSkip: f(gpu, 4) },
    },
    {
      state: f(gpu, 1, 2, 2),
      residual: f(gpu, 1, 3, 4),
      bidirectional: false,
      clipEigs: true,
      stepRescale: 1,
      conjugateSymmetry: true,
    },
  ],
  s4d: (gpu) => [
    f(gpu, 1, 3, 4),
    {
      ...{ logDt: f(gpu, 4), logAReal: f(gpu, 4, 2), aImag: f(gpu, 4, 2) },
      ...{ c: f(gpu, 4, 2, 2), dSkip: f(gpu, 4) },
    },
    { state: f(gpu, 1, 4, 2, 2), residual: f(gpu, 1, 3, 4), returnState: true, returnKernel: false },
  ],
  h3: (gpu) => [
    f(gpu, 1, 3, 4),
    {
      ...Object.fromEntries(["wQ", "wK", "wV", "wO"].map((name) => [name, f(gpu, 4, 4)])),
      ...Object.fromEntries(["bQ", "bK", "bV", "bO"].map((name) => [name, f(gpu, 4)])),
      ...{ shiftKernel: f(gpu, 4, 2), shiftSkip: f(gpu, 4), logDt: f(gpu, 4), logAReal: f(gpu, 4, 2) },
      ...{ aImag: f(gpu, 4, 2), c: f(gpu, 4, 2, 2), dSkip: f(gpu, 4) },
    },
    { headDim: 1, residual: f(gpu, 1, 3, 4), state: { shift: f(gpu, 1, 1, 4), outer: f(gpu, 1, 4, 2, 2) } },
  ],
  gatedLongConv: (gpu) => [
    f(gpu, 1, 3, 4),
    f(gpu, 1, 2, 3, 4),
    { filters: f(gpu, 2, 4, 3), skip: f(gpu, 2, 4) },
    { form: "direct", state: f(gpu, 1, 2, 2, 4), returnState: true },
  ],
};

/** Configurations of every layer. */
const LAYERS: Readonly<Record<string, object>> = {
  GatedRetention: { dim: 4, numHeads: 2 },
  MultiScaleRetention: { dim: 4, numHeads: 2 },
  LinearAttention: { dim: 4, numHeads: 2 },
  Lru: { dim: 4, stateSize: 2 },
  S5: { dim: 4, stateSize: 2 },
  S4d: { dim: 4, stateSize: 2 },
  H3: { dim: 4, stateSize: 2 },
  GatedLongConv: { dim: 4, taps: 3 },
  MambaBlock: { dim: 4, stateSize: 2 },
  GatedDeltaNet: { dim: 4, numKeyHeads: 1, numValueHeads: 2, keyDim: 2, valueDim: 2 },
  Mamba2Block: { dim: 4, numHeads: 2, headDim: 2, stateSize: 2 },
  GriffinBlock: { dim: 4 },
  Rwkv4TimeMix: { dim: 4 },
  Rwkv4ChannelMix: { dim: 4 },
  Rwkv6TimeMix: { dim: 4, numHeads: 2 },
};

interface LayerClass {
  init(
    gpu: Gpu,
    config: object,
    options: object,
  ): {
    forward: Loose;
    createState: Loose;
  };
  plan: Loose;
}

describe("what the sequence mixers do not know", () => {
  const device = useGpu();
  const { SequenceState } = sequence;

  /** What was taken, or refused with another error than the package's. */
  const taken = (gpu: Gpu, call: () => unknown, message: RegExp): string | undefined => {
    const before = gpu.memory().liveBuffers;
    try {
      call();
    } catch (error) {
      if (!KernelsError.isInstance(error) || !message.test(error.message)) return String(error);
      return gpu.memory().liveBuffers === before ? undefined : "refused after the work had begun";
    }
    return "taken";
  };

  it("covers every operator and layer", () => {
    const names = Object.entries(sequence).flatMap(([name, value]) =>
      typeof value === "function" && value !== SequenceState ? [name] : [],
    );
    expect([...Object.keys(CALLS), ...Object.keys(LAYERS)].sort()).toEqual(names.sort());
  });

  it.each(Object.keys(CALLS))("%s", (name) => {
    const { gpu } = device;
    const op = (sequence as unknown as Record<string, Loose>)[name]!;
    const failures: string[] = [];
    gpu.scope(() => {
      const valid = CALLS[name]!(gpu);
      op(...valid);
      const refuse = (what: string, args: readonly unknown[], message: RegExp): void => {
        const failure = taken(gpu, () => op(...args), message);
        if (failure !== undefined) failures.push(`${what}: ${failure}`);
      };
      valid.forEach((value, i) => {
        const swap = (by: unknown): unknown[] => valid.map((v, j) => (j === i ? by : v));
        if (isTensor(value)) {
          for (const other of [undefined, null, [1, 2], {}, 3])
            refuse(`argument ${i} ${what(other)}`, swap(other), /must be/);
          return;
        }
        for (const other of [null, 3, "x", [1]])
          refuse(`argument ${i} ${what(other)}`, swap(other), /must be/);
        refuse(
          `argument ${i} with a key more`,
          swap({ ...(value as object), unheardOf: 1 }),
          /unknown key "unheardOf"/,
        );
        for (const [key, own] of Object.entries(value as object)) {
          const others = isTensor(own)
            ? [null, [1, 2], {}, 3]
            : typeof own === "boolean"
              ? [1, "true", null]
              : typeof own === "number"
                ? ["1", NaN, null, [1]]
                : ["1", 3, null];
          for (const other of others)
            refuse(
              `${key} ${JSON.stringify(other)}`,
              swap({ ...(value as object), [key]: other }),
              /must be|has shape|unknown key/,
            );
        }
      });
    });
    expect(failures).toEqual([]);
  });

  it.each(Object.keys(LAYERS))("%s", (name) => {
    const { gpu } = device;
    const Layer = (sequence as unknown as Record<string, LayerClass>)[name]!;
    const config = LAYERS[name]!;
    const failures: string[] = [];
    gpu.scope(() => {
      const layer = Layer.init(gpu, config, { seed: 1 });
      const [x, wide, short] = [f(gpu, 1, 3, 4), f(gpu, 1, 3, 5), f(gpu, 1, 2, 4)];
      const state = layer.createState({ batch: 1 }) as sequence.SequenceState;
      layer.forward(x, { state, residual: x });
      const refuse = (what: string, call: () => unknown, message: RegExp): void => {
        const failure = taken(gpu, call, message);
        if (failure !== undefined) failures.push(`${what}: ${failure}`);
      };
      refuse(
        "a config's key",
        () => Layer.plan({ ...config, dims: 4 }),
        /unknown key "dims"; did you mean "dim"/,
      );
      refuse("no config", () => Layer.plan(undefined), /must be an object/);
      for (const other of [undefined, null, [1], {}, 3])
        refuse(`x ${what(other)}`, () => layer.forward(other), /must be/);
      refuse("x of another width", () => layer.forward(wide), /has shape/);
      for (const other of [null, 3, [1]])
        refuse(`options ${what(other)}`, () => layer.forward(x, other), /must be/);
      refuse(
        "an option",
        () => layer.forward(x, { states: state }),
        /unknown key "states"; did you mean "state"/,
      );
      for (const other of [null, x, {}, [x], 3])
        refuse(`state ${what(other)}`, () => layer.forward(x, { state: other }), /state/);
      for (const other of [null, [1], {}, 3])
        refuse(`residual ${what(other)}`, () => layer.forward(x, { residual: other }), /residual/);
      refuse("another residual", () => layer.forward(x, { residual: short }), /residual/);
      refuse("no options of a state", () => layer.createState(), /must be an object/);
      refuse("a state's key", () => layer.createState({ batch: 1, batches: 2 }), /unknown key "batches"/);
      refuse("half a batch", () => layer.createState({ batch: 0.5 }), /batch/);
      const doubled = Object.fromEntries(Object.entries(config).map(([key, n]) => [key, 2 * (n as number)]));
      const other = Layer.init(gpu, doubled, { seed: 1 }).createState({ batch: 1 });
      const two = layer.createState({ batch: 2 });
      refuse("a state of two sequences", () => layer.forward(x, { state: two }), /must be/);
      refuse("another layer's state", () => layer.forward(x, { state: other }), /must be/);
    });
    expect(failures).toEqual([]);
  });
});
