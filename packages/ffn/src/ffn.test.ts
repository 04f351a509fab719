import { describe, expect, it } from "vitest";
import { cast, ConfigError, mul, noGrad, ShapeError, type Tensor } from "@x/kernels";
import { checkOp, operand, relativeError, useGpu } from "@x/testing";
import { activation, ACTIVATION_KINDS } from "./activation.js";
import { activationReference } from "./activation.reference.js";
import { FeedForward, ffn } from "./ffn.js";
import { glu, GLU_KINDS } from "./glu.js";
import { GatedFeedForward, gluFfn } from "./glu_ffn.js";
import { gluHiddenDim } from "./glu_hidden_dim.js";
import { GLU_GATES } from "@x/kernels";

const device = useGpu();

/** y = x w^T + b in double precision. */
function product(x: Float64Array, w: Float64Array, width: number, b?: Float64Array): Float64Array {
  const out = w.length / width;
  return Float64Array.from({ length: (x.length / width) * out }, (_, i) => {
    let s = b?.[i % out] ?? 0;
    for (let k = 0; k < width; k++) s += x[Math.floor(i / out) * width + k]! * w[(i % out) * width + k]!;
    return s;
  });
}

describe("ffn", () => {
  it.each(["relu", "gelu", "geluTanh", "squaredRelu"] as const)(
    "%s with biases: value and gradients",
    async (kind) => {
      const [D, F] = [5, 9];
      await checkOp(
        device.gpu,
        (x, w1, b1, w2, b2) => ffn(x, { w1, w2, b1, b2 }, { activation: kind }),
        (x, w1, b1, w2, b2) =>
          product(
            product(x, w1, D, b1).map((v) => activationReference[kind](v)),
            w2,
            F,
            b2,
          ),
        [operand([2, 3, D], 1), operand([F, D], 2), operand([F], 3), operand([D, F], 4), operand([D], 5)],
      );
    },
  );

  it.each(ACTIVATION_KINDS)("%s: fused into the product = apart", async (kind) => {
    const { gpu } = device;
    const make = (shape: number[], seed: number): Tensor => gpu.tensor(operand(shape, seed).data, shape);
    // One row past a tile, a width that is not a multiple of four, and one token (the vector form).
    for (const rows of [1, 65]) {
      const [x, w1, b1, w2] = [make([rows, 12], 1), make([63, 12], 2), make([63], 3), make([12, 63], 4)];
      const fused = await ffn(x, { w1, w2, b1 }, { activation: kind }).read();
      const apart = product(
        product(operand([rows, 12], 1).data, operand([63, 12], 2).data, 12, operand([63], 3).data).map((v) =>
          activationReference[kind](v),
        ),
        operand([12, 63], 4).data,
        63,
      );
      expect(relativeError(fused, apart)).toBeLessThan(1e-5);
    }
  });

  it("learns beta per channel", async () => {
    const [D, F] = [4, 6];
    await checkOp(
      device.gpu,
      (x, w1, w2, beta) => ffn(x, { w1, w2, beta }, { activation: "swish" }),
      (x, w1, w2, beta) =>
        product(
          product(x, w1, D).map((v, i) => activationReference.swish(v, beta[i % F])),
          w2,
          F,
        ),
      [operand([3, D], 1), operand([F, D], 2), operand([D, F], 3), operand([F], 4)],
    );
  });

  it("is a component under GPT-2's names", async () => {
    const { gpu } = device;
    const block = FeedForward.init(gpu, { dim: 8, hiddenDim: 32, activation: "geluTanh" }, { seed: 1 });
    expect(Object.keys(block.parameters())).toEqual([
      "c_fc.weight",
      "c_proj.weight",
      "c_fc.bias",
      "c_proj.bias",
    ]);
    const x = gpu.tensor(operand([2, 8], 1).data, [2, 8]);
    const again = new FeedForward(block.config, block.parameters());
    expect(Array.from(await again.forward(x).read())).toEqual(Array.from(await block.forward(x).read()));
    expect(FeedForward.plan({ dim: 8, bias: false })).toMatchObject({
      "c_fc.weight": { shape: [32, 8], role: "value" },
      "c_proj.weight": { shape: [8, 32], role: "output" },
    });
    expect(() => FeedForward.init(gpu, { dim: 8, hiddenDim: 0 })).toThrow(/hiddenDim is 0/);
    expect(() => FeedForward.init(gpu, { dim: 8, beta: "scalar" })).toThrow(/only swish has one, not relu/);
    expect(() => new FeedForward({ dim: 8, hiddenDim: 32 }, {})).toThrow(/c_fc\.weight is missing/);
  });

  it("learns the component's beta, and normalises the hidden features where it has the part", async () => {
    const { gpu } = device;
    const [D, F] = [4, 6];
    const config = { dim: D, hiddenDim: F, activation: "swish", beta: "channel", bias: false } as const;
    const told: unknown[] = [];
    const halves = {
      parameters: () => ({ weight: gpu.full([F], 0.5) }),
      forward: (h: Tensor, options?: object) => {
        told.push(options);
        return mul(h, 0.5);
      },
    };
    await checkOp(
      gpu,
      (x, w1, w2, beta) => {
        const parameters = { "c_fc.weight": w1, "c_proj.weight": w2, beta };
        const block = new FeedForward(config, parameters, { ffn_layernorm: halves });
        return block.forward(x, { residual: x, normOptions: { training: true } });
      },
      (x, w1, w2, beta) => {
        const hidden = product(x, w1, D).map((v, i) => 0.5 * activationReference.swish(v, beta[i % F]));
        return product(hidden, w2, F).map((v, i) => v + x[i]!);
      },
      [operand([3, D], 1), operand([F, D], 2), operand([D, F], 3), operand([F], 4)],
    );
    expect(told[0]).toEqual({ training: true });
    const block = FeedForward.init(gpu, config, { seed: 1 }, { ffn_layernorm: halves });
    expect(Object.keys(block.parameters())).toEqual([
      "c_fc.weight",
      "c_proj.weight",
      "beta",
      "ffn_layernorm.weight",
    ]);
    expect(() => FeedForward.init(gpu, config, {}, { ffn_norm: halves } as never)).toThrow(
      /unknown key "ffn_norm"/,
    );
    expect(() => FeedForward.init(gpu, config, {}, { ffn_layernorm: {} } as never)).toThrow(
      /ffn_layernorm is an object; it must be a component/,
    );
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const w = { w1: gpu.zeros([6, 4]), w2: gpu.zeros([4, 6]) };
    expect(() => ffn(gpu.zeros([2, 5]), w)).toThrow(ShapeError);
    expect(() => ffn(gpu.zeros([2, 4]), w, { activations: "relu" } as never)).toThrow(
      /did you mean "activation"/,
    );
    expect(() => ffn(gpu.zeros([2, 4]), w, { activation: "selu" as never })).toThrow(ConfigError);
    expect(() => ffn(gpu.zeros([2, 4]), { ...w, beta: 2 }, { activation: "relu" })).toThrow(/beta is given/);
    expect(() => ffn(gpu.zeros([2, 4]), { ...w, w3: w.w1 } as never)).toThrow(
      /unknown key "w3"; did you mean "w1"/,
    );
    expect(() => ffn(gpu.zeros([2, 4]), { ...w, b1: null } as never)).toThrow(/ffn: b1 is null/);
    const live = gpu.memory().liveBuffers;
    expect(() => ffn(gpu.zeros([2, 4]), { ...w, b2: w.w1 })).toThrow(
      /ffn: b2 has shape \[6, 4\]; it must be \[out = 4\]/,
    );
    expect(gpu.memory().liveBuffers).toBe(live + 1); // x alone
  });
});

describe("gated linear units", () => {
  it.each(GLU_KINDS)("%s: value and gradients, W1 is the gate", async (kind) => {
    const [D, F] = [4, 7];
    const g = activationReference[GLU_GATES[kind]];
    await checkOp(
      device.gpu,
      (x, wGate, wUp, bGate, bUp) => glu(x, { wGate, wUp, bGate, bUp }, { kind }),
      (x, wGate, wUp, bGate, bUp) => {
        const up = product(x, wUp, D, bUp);
        return product(x, wGate, D, bGate).map((v, i) => g(v) * up[i]!);
      },
      [operand([3, D], 1), operand([F, D], 2), operand([F, D], 3), operand([F], 4), operand([F], 5)],
    );
  });

  it("swiglu learns beta", async () => {
    await checkOp(
      device.gpu,
      (x, wGate, wUp, beta) => glu(x, { wGate, wUp, beta }),
      (x, wGate, wUp, beta) => {
        const up = product(x, wUp, 4);
        return product(x, wGate, 4).map((v, i) => activationReference.swish(v, beta[0]) * up[i]!);
      },
      [operand([3, 4], 1), operand([5, 4], 2), operand([5, 4], 3), operand([1], 4)],
    );
  });

  it.each(GLU_KINDS)("%s: the fused form of inference = that of training", async (kind) => {
    const { gpu } = device;
    const make = (shape: number[], seed: number): Tensor => gpu.tensor(operand(shape, seed).data, shape);
    for (const [rows, F, D] of [
      [1, 63, 12],
      [2, 20, 5],
      [2, 33, 68],
      [65, 64, 12],
      [7, 33, 12],
    ] as const) {
      const w = { wGate: make([F, D], 2), wUp: make([F, D], 3), bGate: make([F], 4), bUp: make([F], 5) };
      const x = make([rows, D], 1);
      const fused = await noGrad(() => glu(x, w, { kind })).read();
      const up = product(operand([rows, D], 1).data, operand([F, D], 3).data, D, operand([F], 5).data);
      const gates = product(operand([rows, D], 1).data, operand([F, D], 2).data, D, operand([F], 4).data);
      const expected = gates.map((v, i) => activationReference[GLU_GATES[kind]](v) * up[i]!);
      expect(relativeError(fused, expected)).toBeLessThan(1e-5);
    }
  });

  it("one token: half precision weights, refusal of shapes that do not fit", async () => {
    const { gpu } = device;
    const make = (shape: number[], seed: number): Tensor => gpu.tensor(operand(shape, seed).data, shape);
    const [x, wGate, wUp] = [make([1, 1, 8], 1), make([20, 8], 2), make([20, 8], 3)];
    if (gpu.features.f16) {
      const half = { wGate: cast(wGate, "f16"), wUp: cast(wUp, "f16") };
      const full = { wGate: cast(half.wGate, "f32"), wUp: cast(half.wUp, "f32") };
      const out = glu(x, half);
      expect(out.shape).toEqual([1, 1, 20]);
      expect(relativeError(await out.read(), await glu(x, full).read())).toBeLessThan(1e-6);
    }
    expect(() => glu(x, { wGate, wUp: gpu.zeros([19, 8]) })).toThrow(ShapeError);
    expect(() => glu(x, { wGate, wUp, bUp: gpu.zeros([19]) })).toThrow(ShapeError);
    expect(() => glu(gpu.zeros([1, 7]), { wGate, wUp })).toThrow(ShapeError);
  });

  it("gluFfn adds the down projection and a residual", async () => {
    const [D, F] = [4, 6];
    await checkOp(
      device.gpu,
      (x, wGate, wUp, wDown) => gluFfn(x, { wGate, wUp, wDown }, { kind: "geglu", residual: x }),
      (x, wGate, wUp, wDown) => {
        const up = product(x, wUp, D);
        const m = product(x, wGate, D).map((v, i) => activationReference.gelu(v) * up[i]!);
        return product(m, wDown, F).map((v, i) => v + x[i]!);
      },
      [operand([3, D], 1), operand([F, D], 2), operand([F, D], 3), operand([D, F], 4)],
    );
  });

  it("is a component under Llama's names", async () => {
    const { gpu } = device;
    const block = GatedFeedForward.init(gpu, { dim: 8, hiddenDim: 12 }, { seed: 1 });
    expect(Object.keys(block.parameters())).toEqual([
      "gate_proj.weight",
      "up_proj.weight",
      "down_proj.weight",
    ]);
    const again = new GatedFeedForward({ dim: 8, hiddenDim: 12 }, block.parameters());
    const x = gpu.tensor(operand([2, 8], 1).data, [2, 8]);
    expect(Array.from(await again.forward(x).read())).toEqual(Array.from(await block.forward(x).read()));
    expect(Object.keys(GatedFeedForward.plan({ dim: 8, bias: true }))).toHaveLength(6);
    expect(GatedFeedForward.plan({ dim: 8 })["down_proj.weight"]).toMatchObject({
      shape: [8, 21],
      role: "output",
    });
    expect(() => block.forward(x, { residuals: x } as never)).toThrow(/did you mean "residual"/);
    expect(() => block.forward(gpu.zeros([2, 7]))).toThrow(/x has shape \[2, 7\]; its last axis must be 8/);
  });

  it("normalises the hidden features where it has the part", async () => {
    const { gpu } = device;
    const [D, F] = [4, 6];
    const halves = { parameters: () => ({}), forward: (h: Tensor) => mul(h, 0.5) };
    await checkOp(
      gpu,
      (x, gate, up, down) => {
        const names = { "gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": down };
        const block = new GatedFeedForward({ dim: D, hiddenDim: F }, names, { ffn_layernorm: halves });
        return [block.forward(x), block.coefficients(x)];
      },
      (x, gate, up, down) => {
        const other = product(x, up, D);
        const m = product(x, gate, D).map((v, i) => 0.5 * activationReference.silu(v) * other[i]!);
        return [...product(m, down, F), ...m];
      },
      [operand([3, D], 1), operand([F, D], 2), operand([F, D], 3), operand([D, F], 4)],
    );
  });

  it("refuses what does not fit", () => {
    const { gpu } = device;
    const w = { wGate: gpu.zeros([6, 4]), wUp: gpu.zeros([6, 4]) };
    expect(() => glu(gpu.zeros([2, 4]), w, { kind: "swiglo" as never })).toThrow(/did you mean "swiglu"/);
    expect(() => glu(gpu.zeros([2, 4]), { ...w, beta: 2 }, { kind: "reglu" })).toThrow(/beta is given/);
    expect(() => glu(gpu.zeros([2, 4]), { ...w, wUp: gpu.zeros([5, 4]) })).toThrow(ShapeError);
    expect(() => activation(gpu.zeros([2]), "swiglu" as never)).toThrow(ConfigError);
  });
});

describe("gluHiddenDim", () => {
  it("gives the published sizes", () => {
    expect(gluHiddenDim(4096, { multipleOf: 256 })).toBe(11008);
    expect(gluHiddenDim(5120, { multipleOf: 256 })).toBe(13824);
    expect(gluHiddenDim(8192, { multipleOf: 4096, multiplier: 1.3 })).toBe(28672);
    expect(gluHiddenDim(4096, { multipleOf: 1024, multiplier: 1.3 })).toBe(14336);
    expect(() => gluHiddenDim(0)).toThrow(ConfigError);
    expect(() => gluHiddenDim(8, { multiple: 2 } as never)).toThrow(/unknown key "multiple"/);
  });
});
