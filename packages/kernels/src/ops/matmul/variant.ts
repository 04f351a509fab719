import type { Expr } from "../../expr/expr.js";
import type { BindingSpec, ParamType } from "../../kernel/kernel.js";
import type { PackedType } from "../../stored/forms.js";
import { loadWords, storedBindings } from "../../stored/loads.wgsl.js";

/** What changes the code of a matmul. Shapes are not in it, only whether an extent is a multiple of four. */
export interface MatmulVariant {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly a: string;
  readonly b: string;
  /** The form in which b is stored, where it is not an array of elements. */
  readonly packed: PackedType | undefined;
  readonly out: string;
  /** vec4 loads of a (along its last axis). */
  readonly vecA: boolean;
  readonly vecB: boolean;
  /** vec4 bias, residual and stores. */
  readonly vecOut: boolean;
  readonly bias: string | undefined;
  readonly residual: string | undefined;
  readonly activation: Expr | undefined;
  /** K is not a multiple of four. */
  readonly tail: boolean;
  /**
   * "rows": rows offsets[e]..offsets[e + 1] of a meet matrix e of b. "inner": output e sums over the k in that range.
   */
  readonly grouping: "none" | "rows" | "inner";
  /** Rows of no group are written, as zeros. */
  readonly others: boolean;
  /** More than one matrix. */
  readonly batched: boolean;
  /** Lanes of a subgroup, when the form uses them; 0 otherwise. */
  readonly lanes: number;
  /** Output rows that a subgroup or thread holds. */
  readonly rows: number;
  /** Invocations that share four columns of a stored b where no subgroup does; 0 for other forms. */
  readonly team: number;
}

const array = (dtype: string, vec: boolean): string => (vec ? `vec4<${dtype}>` : dtype);

export function matmulBindings(v: MatmulVariant): Record<string, BindingSpec> {
  return {
    a: `read ${array(v.a, v.vecA)}`,
    ...(v.packed === undefined
      ? { b: `read ${array(v.b, v.vecB)}` as const }
      : storedBindings(v.packed, "b", loadWords(v.packed, v.vecB))),
    ...(v.bias === undefined ? {} : { bias: `read ${array(v.bias, v.vecOut)}` as const }),
    ...(v.residual === undefined ? {} : { residual: `read ${array(v.residual, v.vecOut)}` as const }),
    ...(v.grouping === "none" ? {} : { offsets: "read u32" as const }),
    out: `write ${array(v.out, v.vecOut)}`,
  };
}

/** Sizes, and how the batch index z splits into up to four axes with a stride for each operand. */
export const matmulParams: Record<string, ParamType> = {
  batch: "vec4<u32>",
  strideA: "vec4<u32>",
  strideB: "vec4<u32>",
  M: "u32",
  N: "u32",
  K: "u32",
  alpha: "f32",
};
