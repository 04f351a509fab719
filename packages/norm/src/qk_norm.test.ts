import { expect, it } from "vitest";
import { add, transpose } from "@x/kernels";
import { checkOp, operand } from "@x/testing";
import { layerNormReference } from "./layernorm.reference.js";
import { QKNorm, qkNorm, type QKNormConfig } from "./qk_norm.js";
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

  it(
    "gives each head a weight of its own, in both layouts, with gradients",
    { timeout: 300_000 },
    async () => {
      const [B, H, S, D] = [2, 3, 4, 5];
      await checkOp(
        device.gpu,
        (x, weight, bias) => qkNorm(x, { kind: "layer", scope: "each", eps: 1e-3, weight, bias }),
        (x, w, b) => {
          const at = (n: number): number => (Math.floor(n / (S * D)) % H) * D + (n % D);
          return rows("layer", D)(x).map((value, n) => value * w[at(n)]! + b[at(n)]!);
        },
        [operand([B, H, S, D], 1), operand([H, D], 2), operand([H, D], 3)],
      );
      const { gpu } = device;
      const { data, shape } = operand([B, H, S, D], 1);
      const [x, weight] = [gpu.tensor(data, shape), gpu.tensor(operand([H, D], 2).data, [H, D])];
      const rms = await qkNorm(x, { kind: "rms", scope: "each", weight: add(weight, 1) }).read();
      const options = { kind: "gemma", scope: "each", weight } as const;
      expect(await qkNorm(x, options).read()).toEqual(rms);
      const turned = qkNorm(transpose(x, [0, 2, 1, 3]), { ...options, headLayout: "bshd" });
      expect(await transpose(turned, [0, 2, 1, 3]).read()).toEqual(rms);
    },
  );

  it("is a component of a norm, or of one learned factor", async () => {
    const { gpu } = device;
    const shape = { headDim: 4, numHeads: 4 };
    const q = gpu.full([1, 3, 4, 4], 1);
    const shapes = (config: Partial<QKNormConfig>): unknown =>
      Object.entries(QKNorm.plan({ kind: "rms", ...shape, ...config })).map(([name, t]) => [name, t.shape]);
    expect(shapes({ kind: "layer" })).toEqual([
      ["weight", [4]],
      ["bias", [4]],
    ]);
    expect(shapes({ scope: "all" })).toEqual([["weight", [16]]]);
    expect(shapes({ scope: "each" })).toEqual([["weight", [4, 4]]]);
    expect(shapes({ kind: "l2" })).toEqual([]);
    for (const scope of ["head", "each", "all"] as const) {
      const norm = QKNorm.init(gpu, { kind: "rms", scope, eps: 0, ...shape });
      expect(Array.from(await norm.forward(q).read())).toEqual(Array<number>(48).fill(1));
      expect(norm.scale).toBeUndefined();
      norm.dispose();
    }
    const l2 = QKNorm.init(gpu, { kind: "l2", g: "one", length: 3, ...shape });
    expect(await l2.parameters()["g"]!.item()).toBeCloseTo(Math.log2(6), 6);
    expect((await l2.forward(q).read())[0]).toBeCloseTo(Math.log2(6) / 2, 5);
    expect(l2.scale).toBe(1);
    const each = new QKNorm({ kind: "l2", g: "head", ...shape }, { g: gpu.tensor([1, 2, 3, 4], [4]) });
    const scaled = each.forward(gpu.full([1, 1, 4, 4], 1));
    expect([...(await scaled.read())]).toEqual([1, 2, 3, 4].flatMap((g) => [g, g, g, g].map((v) => v / 2)));
    expect(() => QKNorm.plan({ kind: "rms", g: "one", ...shape })).toThrow(/only kind "l2" has a g/);
    expect(() => new QKNorm({ kind: "rms", ...shape }, {})).toThrow(/weight is missing/);
    expect(() => l2.forward(gpu.zeros([1, 1, 2, 4]))).toThrow(/x has shape \[1, 1, 2, 4\]/);
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
    expect(() => qkNorm(q, { kind: "rms", scope: "each", weight: gpu.zeros([4]) })).toThrow(
      /weight has shape \[4\]; it must be \[2, 4\]/,
    );
    expect(() => qkNorm(q, { kind: "l1" as never })).toThrow(/kind is "l1"/);
    expect(() => qkNorm(q, { kind: "rms", scope: "token" as never })).toThrow(/scope is "token"/);
    expect(() => qkNorm(q, { kind: "l2", weight: gpu.zeros([4]) })).toThrow(/weight is given; "l2" has none/);
    expect(() => qkNorm(q, { kind: "gemma", bias: gpu.zeros([4]) })).toThrow(
      /bias is given; only kinds "layer" and "rms" have one/,
    );
  });
});
