import { flatMain } from "../kernel/flat_grid.js";
import { runFlat } from "../kernel/flat_run.js";
import { ConfigError, ShapeError } from "../base/errors.js";
import { checkDType, isFloat, type DType } from "../base/dtype.js";
import { topological } from "../expr/derive.js";
import { e, input, isExpr, type Expr } from "../expr/expr.js";
import type { Gpu } from "../device/gpu.js";
import { defineKernel, grid1d, type Kernel, type ParamValue } from "../kernel/kernel.js";
import { kernelOf, MAX_RANK, type Access, type Operand, type Variant } from "./elementwise.wgsl.js";
import { show } from "../base/show.js";
import { sumToShape } from "../tensor/reduce.js";
import { widen } from "../stored/widen.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  checkShape,
  expectFunction,
  expectList,
  expectNoMore,
  expectTensor,
  showShape,
  sizeOf,
} from "../base/validate.js";

/** numpy's broadcasting rule. @throws ShapeError, ConfigError */
export function broadcastShapes(who: string, shapes: readonly (readonly number[])[]): number[] {
  expectList(who, "shapes", shapes, "shapes");
  for (const shape of shapes) checkShape(who, shape);
  const rank = Math.max(0, ...shapes.map((s) => s.length));
  return Array.from({ length: rank }, (_, axis) => {
    let extent = 1;
    for (const shape of shapes) {
      const n = shape[axis - rank + shape.length] ?? 1;
      if (n === 1 || n === extent) continue;
      if (extent !== 1) {
        throw new ShapeError(
          who,
          `shapes ${shapes.map(showShape).join(" and ")} do not broadcast: ${String(extent)} meets ${String(n)}`,
        );
      }
      extent = n;
    }
    return extent;
  });
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

function strides(shape: readonly number[], rank: number): number[] {
  const out = new Array<number>(rank).fill(0);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const n = shape[axis] ?? 1;
    if (n !== 1) out[axis + rank - shape.length] = stride;
    stride *= n;
  }
  return out;
}

/** Access of an operand of `shape` in an output of `out`, and its period. */
function classify(shape: readonly number[], out: readonly number[]): { access: Access; period: number } {
  if (sizeOf(shape) === sizeOf(out)) return { access: "same", period: 1 };
  if (sizeOf(shape) === 1) return { access: "one", period: 1 };
  const padded = [...Array<number>(out.length - shape.length).fill(1), ...shape];
  const first = padded.findIndex((n) => n !== 1);
  const last = padded.findLastIndex((n) => n !== 1);
  const exact = (from: number, to: number): boolean =>
    padded.slice(from, to).every((n, i) => n === out[from + i]);
  if (exact(first, padded.length)) return { access: "row", period: sizeOf(shape) };
  const leadingOnes = out.slice(0, first).every((n) => n === 1);
  if (leadingOnes && exact(first, last + 1)) return { access: "col", period: sizeOf(out.slice(last + 1)) };
  return { access: "strided", period: 1 };
}

interface Layout {
  readonly operands: readonly Operand[];
  readonly periods: readonly number[];
  readonly lanes: 1 | 4;
}

function layout(args: readonly (Tensor | number)[], out: readonly number[]): Layout {
  const periods: number[] = [];
  let lanes: 1 | 4 = 4;
  const operands = args.map((arg): Operand => {
    if (typeof arg === "number") {
      periods.push(1);
      return { access: "number", dtype: "number" };
    }
    const { access, period } = classify(arg.shape, out);
    periods.push(period);
    if (access === "strided" || ((access === "row" || access === "col") && period % 4 !== 0)) lanes = 1;
    return { access, dtype: arg.dtype };
  });
  return { operands, periods, lanes };
}

function parameters(
  args: readonly (Tensor | number)[],
  out: readonly number[],
  l: Layout,
): Record<string, ParamValue> {
  const params: Record<string, ParamValue> = { count: Math.ceil(sizeOf(out) / l.lanes) };
  const rank = out.length;
  args.forEach((arg, i) => {
    const n = String(i);
    if (typeof arg === "number") {
      params[`number${n}`] = arg;
      return;
    }
    const access = l.operands[i]?.access;
    if (access === "row" || access === "col") params[`period${n}`] = l.periods[i] ?? 1;
    if (access !== "strided") return;
    const padded = [...Array<number>(MAX_RANK - rank).fill(0), ...strides(arg.shape, rank)];
    params[`strideLow${n}`] = padded.slice(0, 4);
    params[`strideHigh${n}`] = padded.slice(4);
    const dims = [...Array<number>(MAX_RANK - rank).fill(1), ...out];
    params["dimsLow"] = dims.slice(0, 4);
    params["dimsHigh"] = dims.slice(4);
  });
  return params;
}

/** What a call needs that follows from shapes and dtypes alone. */
interface Plan {
  readonly shape: readonly number[];
  readonly out: DType;
  readonly variant: Variant;
  readonly params: Record<string, ParamValue>;
  readonly workgroups: readonly [number, number];
}

const PLAN_LIMIT = 512;

function makePlan(name: string, args: readonly (Tensor | number)[]): Plan {
  const present = args.filter((arg) => typeof arg !== "number");
  const shape = broadcastShapes(
    name,
    present.map((t) => t.shape),
  );
  if (shape.length > MAX_RANK)
    throw new ShapeError(
      name,
      `the result has ${String(shape.length)} axes; it must have at most ${String(MAX_RANK)}`,
    );
  const out: DType = present.every((t) => t.dtype === "f16") ? "f16" : "f32";
  const l = layout(args, shape);
  const params = parameters(args, shape, l);
  return {
    shape,
    out,
    variant: { operands: l.operands, out, lanes: l.lanes },
    params,
    workgroups: grid1d(Math.ceil((params["count"] as number) / 64)),
  };
}

/** Run a kernel of a plan; in parts where every index has its own elements, and those are more than a binding holds. */
function dispatch(
  gpu: Gpu,
  kernel: Kernel<Variant>,
  { workgroups, variant: { operands, lanes } }: Plan,
  variant: Variant,
  bindings: Readonly<Record<string, Tensor>>,
  params: Readonly<Record<string, ParamValue>>,
): void {
  const large = Object.values(bindings).some((t) => t.byteLength > gpu.limits.maxStorageBufferBindingSize);
  if (!large || operands.some(({ access }) => !["same", "one", "number"].includes(access))) {
    gpu.run(kernel, { variant, bindings, params, workgroups });
    return;
  }
  const shared = new Set(operands.flatMap(({ access }, i) => (access === "one" ? [`in${String(i)}`] : [])));
  const pick = (own: boolean): Record<string, Tensor> =>
    Object.fromEntries(Object.entries(bindings).filter(([name]) => shared.has(name) !== own));
  const count = params["count"] as number;
  runFlat(gpu, kernel, { variant, flat: pick(true), bindings: pick(false), params, count, lanes });
}

/** The expression that a definition returned, with inputs that the op has. @throws ConfigError */
function rootOf(name: string, inputs: readonly string[], given: unknown): Expr {
  if (typeof given !== "number" && !isExpr(given))
    throw new ConfigError(
      name,
      `its definition returned ${show(given)}; it must return an expression, which the functions of e make`,
    );
  const root = typeof given === "number" ? e.const(given) : given;
  for (const x of topological([root]))
    if (x.op === "input" && !inputs.includes((x as { name: string }).name))
      throw new ConfigError(
        name,
        `its expression reads the input "${(x as { name: string }).name}"; its inputs are ${inputs.join(", ")}`,
      );
  return root;
}

/**
 * Define an elementwise op with its gradient from an expression, as one fused kernel each way.
 *
 * The op's arguments broadcast as in numpy; an argument may be a number, which is passed as a uniform and never
 * recompiles anything. Computed in float32; the result is f16 if every tensor is f16, else f32. Integer tensors
 * are taken as numbers and get no gradient.
 *
 * @example const swiglu = elementwise("swiglu", ["gate", "up"], (gate, up) => e.mul(e.silu(gate), up));
 */
export function elementwise(
  name: string,
  inputs: readonly string[],
  define: (...args: Expr[]) => Expr,
): (...args: (Tensor | number)[]) => Tensor {
  expectList(name, "inputs", inputs, "names");
  expectFunction(name, "define", define);
  if (new Set(inputs).size !== inputs.length)
    throw new ConfigError(name, `its inputs ${inputs.join(", ")} must have different names`);
  const root = rootOf(name, inputs, define(...inputs.map(input)));
  const forward = kernelOf(name, inputs, root);
  const backward = kernelOf(`${name}Backward`, inputs, root);
  const plans = new Map<string, Plan>();
  return (...args) => {
    if (args.length !== inputs.length) {
      throw new ConfigError(name, `given ${String(args.length)} arguments; it takes ${inputs.join(", ")}`);
    }
    const tensors = args.map((arg, i) => {
      if (typeof arg === "number") return undefined;
      expectTensor(name, inputs[i]!, arg);
      return arg;
    });
    const gpu: Gpu | undefined = tensors.find((t) => t !== undefined)?.gpu;
    if (!gpu) throw new ConfigError(name, "every argument is a number; at least one must be a tensor");
    const key = args
      .map((arg) => (typeof arg === "number" ? "number" : `${arg.dtype}${arg.shape.join()}`))
      .join(";");
    let plan = plans.get(key);
    if (!plan) {
      if (plans.size >= PLAN_LIMIT) plans.clear();
      plans.set(key, (plan = makePlan(name, args)));
    }
    const { shape, out, variant } = plan;
    const bindings: Record<string, Tensor> = {};
    tensors.forEach((t, i) => {
      if (t) bindings[`in${String(i)}`] = t;
    });
    let params = plan.params;
    args.forEach((arg, i) => {
      if (typeof arg === "number") params = { ...params, [`number${String(i)}`]: arg };
    });
    return applyOp({
      name,
      inputs: tensors,
      forward: () => {
        const result = gpu.empty(shape, out);
        dispatch(gpu, forward, plan, variant, { ...bindings, out: result }, params);
        return { outputs: [result] };
      },
      backward: ({ grads, needs }) => {
        const wanted = tensors.map((t, i) => (needs[i] && t ? gpu.empty(shape, t.dtype) : undefined));
        // A device binds a limited number of buffers, so that many gradients are written in several passes.
        const room = gpu.limits.maxStorageBuffersPerShaderStage - Object.keys(bindings).length - 1;
        if (room < 1)
          throw new ConfigError(
            name,
            `its gradient reads ${String(Object.keys(bindings).length + 1)} tensors; this device binds ${String(gpu.limits.maxStorageBuffersPerShaderStage)} at a time`,
          );
        const indices = wanted.flatMap((t, i) => (t ? [i] : []));
        for (let first = 0; first < indices.length; first += room) {
          const part = indices.slice(first, first + room);
          const needed = { ...variant, needs: tensors.map((_, i) => part.includes(i)) };
          const given = {
            ...bindings,
            grad: grads[0]!,
            ...Object.fromEntries(part.map((i) => [`d${String(i)}`, wanted[i] as Tensor])),
          };
          dispatch(gpu, backward, plan, needed, given, params);
        }
        return wanted.map((t, i) => {
          const target = tensors[i];
          if (!t || !target) return undefined;
          return sameShape(t.shape, target.shape) ? t : sumToShape(t, target.shape);
        });
      },
    })[0] as Tensor;
  };
}

interface CastVariant {
  readonly from: DType;
  readonly to: DType;
}

const castKernel = defineKernel({
  name: "cast",
  bindings: (v: CastVariant) => ({ x: `read vec4<${v.from}>`, out: `write vec4<${v.to}>` }),
  params: { count: "u32" },
  wgsl: (v, { params }) => /* wgsl */ `
${flatMain("i", params.count)}
  out[i] = vec4<${v.to}>(x[i]);
}`,
});

function runCast(x: Tensor, dtype: DType): Tensor {
  const out = x.gpu.empty(x.shape, dtype);
  runFlat(x.gpu, castKernel, {
    variant: { from: x.dtype, to: dtype },
    flat: { x, out },
    count: Math.ceil(x.size / 4),
    lanes: 4,
  });
  return out;
}

/**
 * The same values in another dtype (integers truncate towards zero). Differentiable between f32 and f16. What is only
 * stored (bf16, q8_0, q4_0, ...) is widened.
 */
export function cast(x: Tensor, dtype: DType, ...rest: never[]): Tensor {
  expectTensor("cast", "x", x);
  expectNoMore("cast", rest);
  checkDType("cast", dtype, x.gpu.features);
  if (x.stored) return dtype === "f32" ? widen(x) : x.gpu.scope(() => cast(widen(x), dtype));
  if (x.dtype === dtype) return x.reshape(x.shape);
  return applyOp({
    name: "cast",
    inputs: [x],
    forward: () => ({ outputs: [runCast(x, dtype)] }),
    backward: ({ grads }) => [isFloat(dtype) && grads[0] ? runCast(grads[0], x.dtype) : undefined],
  })[0] as Tensor;
}
