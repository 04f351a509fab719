import { expect, it } from "vitest";
import { add, ConfigError, mul, vjp, type Tensor } from "@x/kernels";
import { checkOp, operand, relativeError } from "@x/testing";
import { fusedAddNorm, type NormKind } from "./fused_add_norm.js";
import { layerNorm } from "./layernorm.js";
import { layerNormReference } from "./layernorm.reference.js";
import { rmsNorm } from "./rmsnorm.js";
import { rmsNormReference } from "./rmsnorm.reference.js";
import { rmsNormGemma } from "./rmsnorm_gemma.js";
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
    const unfused = (kind: NormKind, x: Tensor, r: Tensor, w: Tensor): Tensor[] => {
      const total = add(mul(r, 0.5), x);
      const norm = { rms: rmsNorm, layer: layerNorm, gemma: rmsNormGemma }[kind];
      return [norm(total, w, { eps: 1e-5 }), total];
    };
    for (const shape of WIDE)
      for (const kind of KINDS) {
        const dim = shape.at(-1)!;
        const inputs = [operand(shape, 1), operand(shape, 2), operand([dim], 3)].map((o) => upload(gpu, o));
        const [x, r, w] = inputs as [Tensor, Tensor, Tensor];
        const cotangents = [operand(shape, 4), operand(shape, 5)].map((o) => upload(gpu, o));
        const runs = [
          vjp(() => {
            const y = fusedAddNorm(x, r, { kind, eps: 1e-5, residualScale: 0.5, weight: w });
            return [y.out, y.residual];
          }, inputs),
          vjp(() => unfused(kind, x, r, w), inputs),
        ].map((run) => [...run.outputs, ...run.pullback(cotangents)]) as [Tensor[], Tensor[]];
        for (const [i, fused] of runs[0].entries())
          expect(
            relativeError(await fused.read(), await runs[1][i]!.read()),
            `${kind} ${String(shape)} ${i}`,
          ).toBeLessThan(2e-5);
      }
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
