import type { DType } from "../base/dtype.js";
import { derive } from "../expr/derive.js";
import { input, type Expr } from "../expr/expr.js";
import { exprToWgsl } from "../expr/wgsl.js";
import { flatMain } from "../kernel/flat_grid.js";
import { defineKernel, type BindingSpec, type Kernel, type ParamType } from "../kernel/kernel.js";

/*
 * The kernels of an elementwise op, forward and backward, from its expression.
 *
 * An invocation owns one element of the output, or four neighbours, and reads of each operand what is broadcast to
 * them. Grid: one invocation for each element, or each four, in workgroups of 64 that share nothing, folded into two
 * axes.
 *
 * Bindings: in0, in1, .. the operands that are tensors, f32, f16 or i32, each of a shape that is broadcast to the
 * output's; forward out, of the output's shape and dtype; backward grad, as out, and d0, d1, .. for each operand that
 * needs a gradient: the output's shape, summed over what was broadcast by a later kernel.
 */

/**
 * How an operand is indexed. `same`: element i; `one`: a single element; `row`: element i mod P (a trailing part
 * of the shape); `col`: element i / P (a leading part); `strided`: by strides; `number`: a uniform.
 */
export type Access = "same" | "one" | "row" | "col" | "strided" | "number";

export interface Operand {
  readonly access: Access;
  readonly dtype: DType | "number";
}

export interface Variant {
  readonly operands: readonly Operand[];
  readonly out: DType;
  /** Lanes of a thread: 4, or 1 when an operand is strided or a period is not a multiple of 4. */
  readonly lanes: 1 | 4;
  /** Which inputs' gradients to write; absent in the forward. */
  readonly needs?: readonly boolean[];
}

export const MAX_RANK = 8;

const vector = (dtype: DType, lanes: 1 | 4): string => (lanes === 4 ? `vec4<${dtype}>` : dtype);

/** Text of one definition's kernels: forward if `needs` is absent, else the gradients of the needed inputs. */
export function kernelOf(name: string, inputs: readonly string[], root: Expr): Kernel<Variant> {
  return defineKernel<Variant>({
    name,
    bindings: (v) => {
      const bindings: Record<string, BindingSpec> = {};
      v.operands.forEach((o, i) => {
        if (o.dtype === "number") return;
        const wide = o.access === "same" || o.access === "row" ? v.lanes : 1;
        bindings[`in${String(i)}`] = `read ${vector(o.dtype, wide)}`;
      });
      if (!v.needs) {
        bindings["out"] = `write ${vector(v.out, v.lanes)}`;
        return bindings;
      }
      bindings["grad"] = `read ${vector(v.out, v.lanes)}`;
      v.needs.forEach((needed, i) => {
        const dtype = v.operands[i]?.dtype;
        if (needed && dtype && dtype !== "number")
          bindings[`d${String(i)}`] = `write ${vector(dtype, v.lanes)}`;
      });
      return bindings;
    },
    params: (v) => {
      const params: Record<string, ParamType> = { count: "u32" };
      v.operands.forEach((o, i) => {
        const n = String(i);
        if (o.access === "number") params[`number${n}`] = "f32";
        if (o.access === "row" || o.access === "col") params[`period${n}`] = "u32";
        if (o.access === "strided")
          Object.assign(params, { [`strideLow${n}`]: "vec4<u32>", [`strideHigh${n}`]: "vec4<u32>" });
      });
      if (v.operands.some((o) => o.access === "strided"))
        Object.assign(params, { dimsLow: "vec4<u32>", dimsHigh: "vec4<u32>" });
      return params;
    },
    wgsl: (v, { params }) => {
      const T = v.lanes === 4 ? "vec4f" : "f32";
      const lines: string[] = [];
      const strided = v.operands.flatMap((o, i) => (o.access === "strided" ? [i] : []));
      if (strided.length > 0) {
        // Indices from the last axis to the first; absent axes have extent 1 and stride 0.
        lines.push("var rest = i;", ...strided.map((i) => `var at${String(i)} = 0u;`));
        for (let axis = MAX_RANK - 1; axis >= 0; axis--) {
          const [half, lane] = axis < 4 ? ["Low", axis] : ["High", axis - 4];
          const dim = `params.dims${half}[${String(lane)}]`;
          lines.push(`{ let index = rest % ${dim}; rest /= ${dim};`);
          for (const i of strided)
            lines.push(`  at${String(i)} += index * params.stride${half}${String(i)}[${String(lane)}];`);
          lines.push("}");
        }
      }
      v.operands.forEach((o, i) => {
        const n = String(i);
        const element = v.lanes === 4 ? "(i * 4u)" : "i";
        const index: Record<Access, string> = {
          same: "i",
          one: "0u",
          row: v.lanes === 4 ? `i % (params.period${n} / 4u)` : `i % params.period${n}`,
          col: `${element} / params.period${n}`,
          strided: `at${n}`,
          number: "",
        };
        const read = o.access === "number" ? `params.number${n}` : `in${n}[${index[o.access]}]`;
        // One number for all lanes is converted before it is spread.
        const single = o.access === "one" || o.access === "col";
        lines.push(`let v${n} = ${T}(${single ? `f32(${read})` : read});`);
      });
      const names = (given: string): string =>
        given === "\u2202" ? "seed" : `v${String(inputs.indexOf(given))}`;
      let helpers: ReadonlyMap<string, string>;
      if (v.needs) {
        const needs = v.needs;
        const seeded = derive(root, inputs, input("\u2202"));
        const wanted = inputs.flatMap((_, i) => (needs[i] === true ? [i] : []));
        const code = exprToWgsl(
          wanted.map((i) => seeded[i] ?? { op: "const", value: 0, args: [] }),
          names,
          T,
        );
        helpers = code.helpers;
        lines.push(`let seed = ${T}(grad[i]);`, ...code.statements);
        wanted.forEach((i, k) => {
          const dtype = v.operands[i]?.dtype as DType;
          lines.push(`d${String(i)}[i] = ${vector(dtype, v.lanes)}(${code.results[k] ?? ""});`);
        });
      } else {
        const code = exprToWgsl([root], names, T);
        helpers = code.helpers;
        lines.push(...code.statements, `out[i] = ${vector(v.out, v.lanes)}(${code.results[0] ?? ""});`);
      }
      return /* wgsl */ `
${[...helpers.values()].join("\n")}
${flatMain("i", params.count)}
  ${lines.join("\n  ")}
}`;
    },
  });
}
