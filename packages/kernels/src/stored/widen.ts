import { flatGrid, flatMain } from "../kernel/flat_grid.js";
import { partsOf } from "../kernel/flat_run.js";
import { defineKernel, type BindingSpec, type Kernel } from "../kernel/kernel.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import type { PackedType } from "./forms.js";
import { loadWords, storedBindings, storedLoads } from "./loads.wgsl.js";
import { matrixParts, storedPlanes } from "./planes.js";

interface WidenVariant {
  readonly packed: PackedType;
  /** Elements are taken by four. */
  readonly vec: boolean;
  /** Rows are chosen by ids. */
  readonly ids: boolean;
}

/** out[n, :] = x[ids[n], :], or x[n, :], as f32; NaN where ids[n] lies outside. An invocation makes one piece. */
const widenKernel: Kernel<WidenVariant> = defineKernel({
  name: "widen",
  bindings: (v: WidenVariant): Record<string, BindingSpec> => ({
    ...storedBindings(v.packed, "x", loadWords(v.packed, v.vec)),
    ...(v.ids ? { ids: "read i32" as const } : {}),
    out: `write ${v.vec ? "vec4<f32>" : "f32"}` as const,
  }),
  params: { count: "u32", width: "u32", extent: "u32", nan: "u32", first: "u32", total: "u32" },
  wgsl: (v) => /* wgsl */ `
${storedLoads(v.packed, "x", v.vec)}
${flatMain("i", "params.count")}
  ${
    v.ids
      ? `let key = ids[i / params.width];
  if (key < 0 || u32(key) >= params.total) {
    out[i] = ${v.vec ? "vec4f" : "f32"}(bitcast<f32>(params.nan));
    return;
  }
  let row = u32(key) - params.first;
  if (row >= params.extent) { return; }
  let at = row * params.width + i % params.width;`
      : "let at = i;"
  }
  out[i] = ${v.vec ? "x4_at(4u * at)" : "x_at(at)"};
}`,
});

/** Runs the kernel for the rows that the device binds at a time; of the whole tensor each makes its own part of out. */
function run(x: Tensor, ids: Tensor | undefined, shape: readonly number[]): Tensor {
  const out = x.gpu.empty(shape);
  const last = x.shape.at(-1) ?? 1;
  if (out.size === 0 || last === 0) return out;
  const vec = last % 4 === 0;
  const width = vec ? last / 4 : last;
  const total = x.size / last;
  const matrix = x.alias([total, last]);
  // Of widened elements four bytes each are written.
  const parts = ids ? matrixParts(matrix) : partsOf(x.gpu, total, 4 * last);
  for (const part of parts.length > 0 ? parts : [{ first: 0, count: total }]) {
    const whole = part.count === total;
    const count = ids ? ids.size * width : part.count * width;
    x.gpu.run(widenKernel, {
      variant: { packed: x.dtype as PackedType, vec, ids: ids !== undefined },
      bindings: {
        ...storedPlanes(matrix, "x", whole ? undefined : part),
        ids,
        out:
          whole || ids
            ? out
            : { tensor: out, byteOffset: 4 * part.first * last, byteLength: 4 * part.count * last },
      },
      params: { count, width, extent: part.count, nan: 0x7fc00000, first: part.first, total },
      workgroups: flatGrid(count),
    });
  }
  return out;
}

/** The elements of a stored tensor as f32. */
export const widen = (x: Tensor): Tensor =>
  applyOp({
    name: "cast",
    stored: true,
    inputs: [x],
    forward: () => ({ outputs: [run(x, undefined, x.shape)] }),
  })[0]!;

/** Rows of a stored table [vocab, dim] by ids (i32, any shape), as f32: the forward of `embedding`, which checks them. */
export const widenRows = (table: Tensor, ids: Tensor): Tensor =>
  applyOp({
    name: "embedding",
    stored: true,
    inputs: [table, ids],
    forward: () => ({ outputs: [run(table, ids, [...ids.shape, table.shape[1]!])] }),
  })[0]!;
