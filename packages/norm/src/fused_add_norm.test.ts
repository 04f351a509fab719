import fc from "fast-check";
import { expect, it } from "vitest";
import { add, ConfigError, mul, vjp, type Tensor } from "@x/kernels";
import { checkOp, operand, relativeError } from "@x/testing";
import { fusedAddNorm, type NormKind } from "./fused_add_norm.js";
import { layerNorm } from "./layernorm.js";
import { layerNormReference } from "./layernorm.reference.js";
import { rmsNorm } from "./rmsnorm.js";
import { rmsNormReference } from "./rmsnorm.reference.js";
import { gemmaRmsNorm } from "./gemma_rmsnorm.js";
import { eachForm, SHAPES, upload, WIDE } from "./test-support.js";

const KINDS = ["rms", "layer", "gemma"] as const;

function reference(kind: NormKind, dim: number, eps: number, scale: number) {
  return (x: Float64Array, r: Float64Array, w: Float64Array, b?: Float64Array): number[] => {
    const total = x.map((v, i) => scale * r[i]! + v);
    const out =
      kind === "layer"
        ? layerNormReference({ dim, eps }, total, w, b)
        : rmsNormReference({ dim, eps, offset: kind === "gemma" ? 1 : 0 }, total, w);
    return [...out, ...total];
  };
}

eachForm("fusedAddNorm", (device) => {
  it("gives the sum and its norm, with the gradients of both outputs", { timeout: 300_000 }, async () => {
    for (const shape of SHAPES)
      for (const kind of KINDS) {
        const dim = shape.at(-1)!;
        const [eps, residualScale] = [dim < 3 ? 0.5 : 1e-3, 1.7];
        await checkOp(
          device.gpu,
          (x, r, weight, bias) => {
            const y = fusedAddNorm(x, r, { kind, eps, residualScale, weight, bias });
            return [y.out, y.residual];
          },
          reference(kind, dim, eps, residualScale),
          [
            operand(shape, 1),
            operand(shape, 2),
            operand([dim], 3),
            ...(kind === "layer" ? [operand([dim], 4)] : []),
          ],
        );
      }
  });

  it("equals add and norm apart, values and gradients", { timeout: 300_000 }, async () => {
    const { gpu } = device;
    const same = async (
      shape: readonly number[],
      kind: NormKind,
      residualScale: number,
      seed: number,
    ): Promise<void> => {
      const norm = { rms: rmsNorm, layer: layerNorm, gemma: gemmaRmsNorm }[kind];
      // A row of one feature has no deviation: eps is its divisor.
      const eps = shape.at(-1)! < 3 ? 0.5 : 1e-5;
      const made = [shape, shape, [shape.at(-1)!], shape, shape].map((s, n) =>
        upload(gpu, operand(s, seed + n)),
      );
      const [x, r, w, ...cotangents] = made as [Tensor, Tensor, Tensor, Tensor, Tensor];
      const runs = [
        (): Tensor[] => {
          const y = fusedAddNorm(x, r, { kind, eps, residualScale, weight: w });
          return [y.out, y.residual];
        },
        (): Tensor[] => {
          const total = add(mul(r, residualScale), x);
          return [norm(total, { weight: w, eps }), total];
        },
      ].map((op) => vjp(op, [x, r, w]));
      const [fused, apart] = runs.map((run) => [...run.outputs, ...run.pullback(cotangents)]) as [
        Tensor[],
        Tensor[],
      ];
      for (const [i, t] of fused.entries())
        expect(
          relativeError(await t.read(), await apart[i]!.read()),
          `${kind} ${String(shape)} ${i}`,
        ).toBeLessThan(2e-5);
      for (const t of [...made, ...fused, ...apart]) t.dispose();
    };
    for (const shape of WIDE) for (const kind of KINDS) await same(shape, kind, 0.5, 1);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 7 }), { minLength: 0, maxLength: 2 }),
        fc.integer({ min: 1, max: 200 }),
        fc.constantFrom(...KINDS),
        fc.double({ min: -3, max: 3, noNaN: true }),
        fc.nat(1000),
        async (rows, dim, kind, scale, seed) => {
          await same([...rows, dim], kind, Math.fround(scale), seed);
        },
      ),
      { numRuns: 25 },
    );
  });

  it("needs no cotangent of the sum, or of the norm", async () => {
    const { gpu } = device;
    const [x, r] = [upload(gpu, operand([3, 8], 1)), upload(gpu, operand([3, 8], 2))];
    const cot = upload(gpu, operand([3, 8], 3));
    const grads = (which: 0 | 1): Promise<ArrayLike<number>> => {
      const run = vjp(() => {
        const y = fusedAddNorm(x, r, { kind: "rms" });
        return [y.out, y.residual];
      }, [x, r]);
      return run.pullback(which === 0 ? [cot, undefined] : [undefined, cot])[0]!.read();
    };
    expect(relativeError(await grads(1), await cot.read())).toBeLessThan(1e-6);
    const total = add(x, r);
    const plain = vjp(() => [rmsNorm(total)], [total]).pullback([cot])[0]!;
    expect(relativeError(await grads(0), await plain.read())).toBeLessThan(1e-6);
  });

  it("refuses what does not fit, by name", () => {
    const { gpu } = device;
    const x = gpu.zeros([2, 6]);
    expect(() => fusedAddNorm(x, gpu.zeros([2, 5]), { kind: "rms" })).toThrow(
      /fusedAddNorm: residual has shape \[2, 5\]; it must be \[2, 6\]/,
    );
    expect(() => fusedAddNorm(x, x, { kind: "rms", bias: gpu.zeros([6]) })).toThrow(ConfigError);
    expect(() => fusedAddNorm(x, x, { kind: "batch" as never })).toThrow(/kind is "batch"/);
    expect(() => fusedAddNorm(x, x, { kind: "rms", residualScale: NaN })).toThrow(/residualScale is NaN/);
  });
});
