import { ConfigError, DTypeError, ShapeError } from "../../base/errors.js";
import { grid1d } from "../../kernel/kernel.js";
import { sumMiddle } from "../../tensor/reduce.js";
import { applyOp, isTracked } from "../../tensor/tape.js";
import type { Tensor } from "../../tensor/tensor.js";
import { expectNumber, expectTensors, showShape } from "../../base/validate.js";
import { add, div, mul } from "../arithmetic.js";
import { countTargets, expectTargets, gradKernel, runLoss, uniforms } from "./loss_rows.js";
import { lossSettings, type CrossEntropyOptions } from "./losses.js";
import { matmul } from "../matmul/matmul.js";
import { rowVariant } from "../rows.js";
import { slice } from "../shape.js";

export interface LinearCrossEntropyOptions extends Omit<CrossEntropyOptions, "axis" | "classWeights"> {
  readonly reduction?: "mean" | "sum";
  /** Largest piece of logits that exists at a time, in bytes; default 16 MiB. */
  readonly chunkBytes?: number;
}

/**
 * crossEntropy(x weight^T, targets) for a large vocabulary: logits exist for a chunk of rows at a time, and their
 * gradient is taken while they do, so neither logits nor probabilities of the whole batch are ever kept.
 *
 * x [..., dim] f32, weight [vocab, dim] f32 or a constant in a form that is only stored (bf16, q8_0, q4_0, ...),
 * targets i32 [...]; a scalar.
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const who = "linearCrossEntropy";
  expectTensors(who, { x, weight, targets });
  const s = lossSettings(who, options, "chunkBytes");
  if (s.reduction === "none")
    throw new ConfigError(
      who,
      'reduction is "none"; it must be "mean" or "sum" (crossEntropy gives single losses)',
    );
  const { chunkBytes = 16 * 2 ** 20 } = options;
  expectNumber(who, "chunkBytes", chunkBytes, 1);
  if (x.dtype !== "f32" || (weight.dtype !== "f32" && !weight.stored))
    throw new DTypeError(
      who,
      `x is ${x.dtype}, weight ${weight.dtype}; both must be f32, or weight in a form that is only stored`,
    );
  if (weight.rank !== 2 || weight.size === 0)
    throw new ShapeError(who, `weight has shape ${showShape(weight.shape)}; it must be [vocab, dim]`);
  const [vocab, dim] = weight.shape as [number, number];
  if (x.shape.at(-1) !== dim)
    throw new ShapeError(who, `x has shape ${showShape(x.shape)}; its last axis must be ${dim}`);
  expectTargets(who, x.shape.slice(0, -1), targets);
  const { gpu } = x;
  const rows = targets.size;
  const step = Math.max(4, Math.min(rows, Math.floor(chunkBytes / (4 * vocab) / 4) * 4));
  const wanted = [isTracked([x]), isTracked([weight])] as const;
  return applyOp({
    name: who,
    stored: true,
    inputs: [x, weight, targets],
    forward: () => {
      const flat = x.alias([rows, dim]);
      const labels = targets.alias([rows]);
      const scale =
        s.reduction === "mean" ? div(gpu.full([], 1), countTargets(targets, s.ignoreIndex)) : gpu.full([], 1);
      const losses: Tensor[] = [];
      const dx = wanted[0] ? gpu.empty(x.shape) : undefined;
      let dWeight: Tensor | undefined;
      for (let start = 0; start < rows; start += step) {
        const end = Math.min(rows, start + step);
        const range = { axis: 0, start, end };
        const [loss, nextWeight] = gpu.scope(() => {
          const piece = slice(flat, range);
          const own = slice(labels, range);
          const logits = matmul(piece, weight, { transposeB: true });
          const { loss, logZ } = runLoss(logits, own, s);
          const total = sumMiddle(loss, 1, end - start, 1).alias([]);
          if (!wanted[0] && !wanted[1]) return [total, undefined];
          gpu.run(gradKernel, {
            variant: { ...rowVariant(logits, vocab), inPlace: true, shared: true },
            bindings: { x: logits, labels: own, log_z: logZ, grad: scale },
            params: uniforms(s, end - start, vocab),
            workgroups: grid1d(end - start),
          });
          if (dx) gpu.copy(matmul(logits, weight), dx, { toOffset: start * dim });
          return [
            total,
            wanted[1] ? matmul(logits, piece, { transposeA: true, residual: dWeight }) : undefined,
          ];
        });
        losses.push(loss);
        dWeight?.dispose();
        dWeight = nextWeight;
      }
      const total = losses.reduce((a, b) => add(a, b));
      return { outputs: [mul(total, scale)], saved: [dx, dWeight].filter((t) => t !== undefined) };
    },
    backward: ({ grads, saved }) => {
      const [dx, dWeight] = wanted[0] ? [saved[0], saved[1]] : [undefined, saved[0]];
      const times = (t: Tensor | undefined): Tensor | undefined => t && mul(t, grads[0]!);
      return [wanted[0] ? times(dx) : undefined, wanted[1] ? times(dWeight) : undefined, undefined];
    },
  })[0]!;
}
