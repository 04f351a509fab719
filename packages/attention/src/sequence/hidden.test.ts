import { describe, expect, it } from "vitest";
import { vjp, type Gpu, type Tensor } from "@x/kernels";
import { useGpu } from "@x/testing";
import { expectSame, random, rows } from "../test-support.js";
import {
  GatedDeltaNet,
  GatedRetention,
  GriffinBlock,
  LinearAttention,
  Lru,
  Mamba2Block,
  MambaBlock,
  rgLru,
  Rwkv4TimeMix,
  Rwkv6TimeMix,
  S4d,
  type SequenceState,
} from "./index.js";

interface Layer {
  forward(x: Tensor, options?: { readonly state?: SequenceState }): Tensor;
  createState(options: { readonly batch: number }): SequenceState;
}

describe("what is not to be read is not read", () => {
  const device = useGpu();
  const dim = 4;
  const layers: Readonly<Record<string, (gpu: Gpu) => Layer>> = {
    GatedRetention: (gpu) => GatedRetention.init(gpu, { dim, numHeads: 2 }, { seed: 1 }),
    LinearAttention: (gpu) => LinearAttention.init(gpu, { dim, numHeads: 2 }, { seed: 1 }),
    Lru: (gpu) => Lru.init(gpu, { dim, stateSize: 2 }, { seed: 1 }),
    S4d: (gpu) => S4d.init(gpu, { dim, stateSize: 2 }, { seed: 1 }),
    MambaBlock: (gpu) => MambaBlock.init(gpu, { dim, stateSize: 2 }, { seed: 1 }),
    GatedDeltaNet: (gpu) =>
      GatedDeltaNet.init(gpu, { dim, numKeyHeads: 1, numValueHeads: 2, keyDim: 2, valueDim: 2 }, { seed: 1 }),
    Mamba2Block: (gpu) => Mamba2Block.init(gpu, { dim, numHeads: 2, headDim: 2, stateSize: 2 }, { seed: 1 }),
    GriffinBlock: (gpu) => GriffinBlock.init(gpu, { dim }, { seed: 1 }),
    Rwkv4TimeMix: (gpu) => Rwkv4TimeMix.init(gpu, { dim }, { seed: 1 }),
    Rwkv6TimeMix: (gpu) => Rwkv6TimeMix.init(gpu, { dim, numHeads: 2 }, { seed: 1 }),
  };

  it.each(Object.keys(layers))(
    "%s: a state that was NaN or infinite is empty once it is cleared",
    async (name) => {
      const { gpu } = device;
      const layer = layers[name]!(gpu);
      const x = random(gpu, [1, 5, dim], 2);
      const expected = layer.forward(x, { state: layer.createState({ batch: 1 }) });
      for (const bad of [NaN, Infinity, -Infinity]) {
        const state = layer.createState({ batch: 1 });
        layer.forward(gpu.full([1, 3, dim], bad), { state });
        state.clear();
        await expectSame(layer.forward(x, { state }), expected);
        state.dispose();
      }
    },
  );

  it("a document's NaN reaches neither the next one nor, backward, the one before", async () => {
    const { gpu } = device;
    const draw = (seed: number, ...shape: number[]): Tensor => random(gpu, shape, seed);
    const parameters = {
      ...{ wInput: draw(1, 1, 3, 3), bInput: draw(2, 1, 3), wRec: draw(3, 1, 3, 3), bRec: draw(4, 1, 3) },
      aParam: draw(5, 3),
    };
    // One chunk, and many.
    for (const [length, clean] of [
      [3, 4],
      [150, 200],
    ] as const) {
      const after = draw(6, 1, clean, 3);
      const segmentPos = gpu.tensor(
        Array.from({ length: length + clean }, (_, t) => (t < length ? t : t - length)),
        [1, length + clean],
        "i32",
      );
      const data = [...new Array<number>(3 * length).fill(NaN), ...(await after.read())];
      const x = gpu.tensor(data, [1, length + clean, 3]);
      const alone = rgLru(after, parameters, {
        segmentPos: gpu.tensor(
          Array.from({ length: clean }, (_, t) => t),
          [1, clean],
          "i32",
        ),
      });
      await expectSame(rows(rgLru(x, parameters, { segmentPos }).out, length, length + clean), alone.out);

      const finite = draw(7, 1, length + clean, 3);
      const cotangent = [...(await draw(8, 1, length, 3).read()), ...new Array<number>(3 * clean).fill(NaN)];
      const gradients = vjp(() => [rgLru(finite, parameters, { segmentPos }).out], [finite]).pullback([
        gpu.tensor(cotangent, finite.shape),
      ]);
      const dx = (await gradients[0]!.read()).slice(0, 3 * length);
      expect(dx.every(Number.isFinite)).toBe(true);
    }
  });
});
