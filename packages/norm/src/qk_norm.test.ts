import { expect, it } from "vitest";
import { checkOp, operand } from "@x/testing";
import { layerNormReference } from "./layernorm.reference.js";
import { QKNorm, qkNorm } from "./qk_norm.js";
import { rmsNormReference } from "./rmsnorm.reference.js";
import { scaleNormReference } from "./scalenorm.reference.js";
import { eachForm } from "./test-support.js";

type Rows = (x: ArrayLike<number>, w?: ArrayLike<number>, b?: ArrayLike<number>) => Float64Array;

const rows = (kind: "rms" | "layer" | "gemma" | "l2", dim: number): Rows => {
  const eps = 1e-3;
  if (kind === "layer") return (x, w, b) => layerNormReference({ dim, eps }, x, w, b);
  if (kind === "l2") return (x) => scaleNormReference({ dim, eps }, x);
  return (x, w, b) => rmsNormReference({ dim, eps, offset: kind === "gemma" ? 1 : 0 }, x, w, b);
};

/** [B, H, S, D] to [B, S, H, D] and back. */
function turn(x: ArrayLike<number>, B: number, H: number, S: number, D: number): Float64Array {
  const out = new Float64Array(x.length);
  for (let b = 0; b < B; b++)
    for (let h = 0; h < H; h++)
      for (let s = 0; s < S; s++)
        for (let d = 0; d < D; d++) out[((b * S + s) * H + h) * D + d] = x[((b * H + h) * S + s) * D + d]!;
  return out;
}

eachForm("qkNorm", (device) => {
  it("normalises each head, or all heads of a token, with gradients", { timeout: 300_000 }, async () => {
    const [B, H, S, D] = [2, 3, 4, 5];
    for (const kind of ["rms", "layer", "gemma", "l2"] as const)
      for (const scope of ["head", "all"] as const) {
        const dim = scope === "head" ? D : H * D;
        const reference: Rows = (x, w, b) =>
          scope === "head"
            ? rows(kind, D)(x, w, b)
            : turn(rows(kind, dim)(turn(x, B, H, S, D), w, b), B, S, H, D);
        await checkOp(
          device.gpu,
          (x, weight, bias) => qkNorm(x, { kind, scope, eps: 1e-3, weight, bias }),
          reference,
          [
            operand([B, H, S, D], 1),
            ...(kind === "l2" ? [] : [operand([dim], 2)]),
            ...(kind === "layer" || kind === "rms" ? [operand([dim], 3)] : []),
          ],
        );
      }
  });

  it("is a component of two norms, or of one learned factor", async () => {
    const { gpu } = device;
    const shape = { headDim: 4, numHeads: 4, numKvHeads: 2 };
    const [q, k] = [gpu.zeros([1, 3, 4, 4]), gpu.zeros([1, 3, 2, 4])];
    const shapes = (norm: QKNorm): unknown =>
      Object.entries(norm.parameters()).map(([name, t]) => [name, t.shape]);
    expect(shapes(QKNorm.init(gpu, { kind: "layer", ...shape }))).toEqual([
      ["q_norm.weight", [4]],
      ["q_norm.bias", [4]],
      ["k_norm.weight", [4]],
      ["k_norm.bias", [4]],
    ]);
    const all = QKNorm.init(gpu, { kind: "rms", scope: "all", ...shape });
    expect(shapes(all)).toEqual([
      ["q_norm.weight", [16]],
      ["k_norm.weight", [8]],
    ]);
    expect(all.forward(q, k).k.shape).toEqual([1, 3, 2, 4]);
    const l2 = QKNorm.init(gpu, { kind: "l2", length: 3, ...shape });
    expect(await l2.parameters()["g"]!.item()).toBeCloseTo(Math.log2(6), 6);
    const ones = new QKNorm({ kind: "l2", ...shape }, l2.parameters()).forward(gpu.full([1, 3, 4, 4], 1), k);
    expect((await ones.q.read())[0]).toBeCloseTo(Math.log2(6) / 2, 5);
    const each = new QKNorm({ kind: "l2", gPerHead: true, ...shape }, { g: gpu.tensor([1, 2, 3, 4], [4]) });
    const { q: scaled } = each.forward(gpu.full([1, 1, 4, 4], 1), gpu.full([1, 1, 2, 4], 1));
    expect([...(await scaled.read())]).toEqual([1, 2, 3, 4].flatMap((g) => [g, g, g, g].map((v) => v / 2)));
    expect(() => QKNorm.plan({ kind: "rms", gPerHead: true, ...shape })).toThrow(/only kind "l2" has a g/);
    expect(() => new QKNorm({ kind: "rms", ...shape }, {})).toThrow(/q_norm.weight is missing/);
  });

  it("refuses what does not fit, by name", () => {
    expect(() => new QKNorm({ kind: "rms", headDim: 2, numHeads: 1, scop: "all" } as never, {})).toThrow(
      /unknown key "scop"/,
    );
    const { gpu } = device;
    const q = gpu.zeros([1, 2, 3, 4]);
    expect(() => qkNorm(gpu.zeros([2, 3, 4]), { kind: "rms" })).toThrow(
      /must be \[batch, heads, seq, headDim\]/,
    );
    expect(() => qkNorm(q, { kind: "rms", scope: "all", weight: gpu.zeros([4]) })).toThrow(
      /weight has shape \[4\]/,
    );
    expect(() => qkNorm(q, { kind: "l1" as never })).toThrow(/kind is "l1"/);
    expect(() => qkNorm(q, { kind: "rms", scope: "token" as never })).toThrow(/scope is "token"/);
    expect(() => qkNorm(q, { kind: "l2", weight: gpu.zeros([4]) })).toThrow(/weight is given; "l2" has none/);
    expect(() => qkNorm(q, { kind: "gemma", bias: gpu.zeros([4]) })).toThrow(
      /bias is given; only kinds "layer" and "rms" have one/,
    );
  });
});
