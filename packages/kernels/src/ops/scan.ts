import { flatMain } from "../kernel/flat_grid.js";
import { ConfigError, ShapeError } from "../base/errors.js";
import { derive } from "../expr/derive.js";
import { e, input, type Expr } from "../expr/expr.js";
import { exprToWgsl } from "../expr/wgsl.js";
import { defineKernel, grid1d } from "../kernel/kernel.js";
import { applyOp } from "../tensor/tape.js";
import type { Tensor } from "../tensor/tensor.js";
import {
  checkConfig,
  expectBoolean,
  expectDType,
  expectFunction,
  expectList,
  expectTensor,
  normalizeAxis,
  showShape,
  sizeOf,
} from "../base/validate.js";
import { concat, slice } from "./shape.js";

export interface ScanOptions {
  /** Axis to scan; default the last. */
  readonly axis?: number;
  /** From the last element to the first. */
  readonly reverse?: boolean;
}

/** An associative scan over tensors of equal shape, one per component. */
export type AssociativeScan = (inputs: readonly Tensor[], options?: ScanOptions) => Tensor[];

/** Threads below which the axis is cut into chunks. */
const ENOUGH_THREADS = 512;
const CHUNK = 64;

/**
 * Define an inclusive scan y_0 = x_0, y_t = combine(y_{t-1}, x_t) over an associative operation on tuples, from
 * expressions (Blelloch 1990, "Prefix sums and their applications"). Its gradient is derived from the same text.
 * Long axes of few rows are cut into chunks, combined in a fixed tree. float32.
 *
 * @example // h_t = a_t h_{t-1} + b_t
 * const linear = associativeScan("linear", ["a", "b"], (l, r) => [e.mul(l[0], r[0]), e.add(e.mul(r[0], l[1]), r[1])]);
 */
export function associativeScan(
  name: string,
  components: readonly string[],
  combine: (left: readonly Expr[], right: readonly Expr[]) => readonly Expr[],
): AssociativeScan {
  expectList(name, "components", components, "names");
  expectFunction(name, "combine", combine);
  const n = components.length;
  const lefts = components.map((c) => `l_${c}`);
  const rights = components.map((c) => `r_${c}`);
  const roots = combine(lefts.map(input), rights.map(input));
  expectList(name, "what combine returns", roots, "expressions");
  if (n === 0 || roots.length !== n) {
    throw new ConfigError(name, `combine gives ${roots.length} expressions for ${n} components`);
  }
  const list = <T>(f: (c: string, i: number) => T): T[] => components.map(f);
  const code = exprToWgsl(roots, (x) => x);
  const combineText = /* wgsl */ `
${[...code.helpers.values()].join("\n")}
struct Value { ${list((c) => `${c}: f32`).join(", ")} }
fn combine(left: Value, right: Value) -> Value {
  ${list((c) => `let l_${c} = left.${c}; let r_${c} = right.${c};`).join("\n  ")}
  ${code.statements.join("\n  ")}
  return Value(${code.results.join(", ")});
}`;
  const position = `
fn place(o: u32, t: u32, i: u32) -> u32 {
  let at = select(t, params.extent - 1u - t, params.reverse != 0u);
  return (o * params.extent + at) * params.inner + i;
}`;
  const bind = (prefix: string, access: "read" | "write"): Record<string, `${"read" | "write"} f32`> =>
    Object.fromEntries(list((c) => [`${prefix}_${c}`, `${access} f32` as const]));
  const load = (prefix: string, index: string): string =>
    `Value(${list((c) => `${prefix}_${c}[${index}]`).join(", ")})`;
  const store = (prefix: string, index: string, value: string): string =>
    list((c) => `${prefix}_${c}[${index}] = ${value}.${c};`).join(" ");
  const params = {
    outer: "u32",
    extent: "u32",
    inner: "u32",
    chunk: "u32",
    chunks: "u32",
    reverse: "u32",
  } as const;
  const head = /* wgsl */ `
${flatMain("index", "params.outer * params.chunks * params.inner")}
  let i = index % params.inner;
  let c = index / params.inner % params.chunks;
  let o = index / (params.inner * params.chunks);
  let first = c * params.chunk;
  let last = min(first + params.chunk, params.extent);`;
  const totalsKernel = defineKernel({
    name: `${name}ScanTotals`,
    bindings: { ...bind("x", "read"), ...bind("y", "write") },
    params,
    wgsl: () => /* wgsl */ `
${combineText}
${position}
${head}
  var value = ${load("x", "place(o, first, i)")};
  for (var t = first + 1u; t < last; t++) { value = combine(value, ${load("x", "place(o, t, i)")}); }
  ${store("y", "index", "value")}
}`,
  });
  const scanKernel = defineKernel({
    name: `${name}Scan`,
    bindings: (v: { prefix: boolean }) => ({
      ...bind("x", "read"),
      ...(v.prefix ? bind("p", "read") : {}),
      ...bind("y", "write"),
    }),
    params,
    wgsl: (v) => /* wgsl */ `
${combineText}
${position}
${head}
  var value = ${load("x", "place(o, first, i)")};
  ${v.prefix ? `if (c > 0u) { value = combine(${load("p", "(o * params.chunks + c - 1u) * params.inner + i")}, value); }` : ""}
  { let at = place(o, first, i); ${store("y", "at", "value")} }
  for (var t = first + 1u; t < last; t++) {
    let at = place(o, t, i);
    value = combine(value, ${load("x", "at")});
    ${store("y", "at", "value")}
  }
}`,
  });
  // Adjoint: lambda_t = g_t + (d combine / d left at (y_t, x_{t+1}))^T lambda_{t+1}.
  const seeds = components.map((c) => input(`s_${c}`));
  const names = [...lefts, ...rights];
  const pulled = roots.map((root, i) => derive(root, names, seeds[i]!));
  const total = (k: number): Expr =>
    pulled.reduce<Expr>((sum, d) => (d[k] ? e.add(sum, d[k]) : sum), e.const(0));
  const adjoint = exprToWgsl(
    names.map((_, k) => total(k)),
    (x) => x,
    "f32",
    "d",
  );
  const backwardKernel = defineKernel({
    name: `${name}ScanBackward`,
    bindings: { ...bind("x", "read"), ...bind("y", "read"), ...bind("g", "read"), ...bind("dx", "write") },
    params,
    wgsl: () => /* wgsl */ `
${[...new Map([...code.helpers, ...adjoint.helpers]).values()].join("\n")}
struct Value { ${list((c) => `${c}: f32`).join(", ")} }
${position}
${head}
  var lambda = ${load("g", "place(o, params.extent - 1u, i)")};
  for (var t = params.extent - 1u; t > 0u; t--) {
    let at = place(o, t, i);
    let before = place(o, t - 1u, i);
    ${list((c) => `let l_${c} = y_${c}[before]; let r_${c} = x_${c}[at]; let s_${c} = lambda.${c};`).join("\n    ")}
    ${adjoint.statements.join("\n    ")}
    ${list((c, k) => `dx_${c}[at] = ${adjoint.results[n + k] ?? "0.0"};`).join(" ")}
    lambda = Value(${list((c, k) => `g_${c}[before] + ${adjoint.results[k] ?? "0.0"}`).join(", ")});
  }
  { let at = place(o, 0u, i); ${store("dx", "at", "lambda")} }
}`,
  });
  const named = (prefix: string, tensors: readonly Tensor[]): Record<string, Tensor> =>
    Object.fromEntries(list((c, i) => [`${prefix}_${c}`, tensors[i]!]));

  const runScan = (
    xs: readonly Tensor[],
    outer: number,
    extent: number,
    inner: number,
    reverse: number,
    shape: readonly number[],
  ): Tensor[] => {
    const gpu = xs[0]!.gpu;
    const outs = xs.map(() => gpu.empty(shape));
    const split = outer * inner < ENOUGH_THREADS && extent > 2 * CHUNK;
    const chunk = split ? Math.max(CHUNK, Math.ceil(Math.sqrt(extent))) : extent;
    const chunks = Math.ceil(extent / chunk);
    const call = {
      params: { outer, extent, inner, chunk, chunks, reverse },
      workgroups: grid1d(Math.ceil((outer * chunks * inner) / 64)),
    };
    if (!split) {
      gpu.run(scanKernel, {
        ...call,
        variant: { prefix: false },
        bindings: { ...named("x", xs), ...named("y", outs) },
      });
      return outs;
    }
    gpu.scope(() => {
      const totals = xs.map(() => gpu.empty([outer, chunks, inner]));
      gpu.run(totalsKernel, { ...call, bindings: { ...named("x", xs), ...named("y", totals) } });
      const prefixes = runScan(totals, outer, chunks, inner, 0, [outer, chunks, inner]);
      gpu.run(scanKernel, {
        ...call,
        variant: { prefix: true },
        bindings: { ...named("x", xs), ...named("p", prefixes), ...named("y", outs) },
      });
    });
    return outs;
  };

  return (inputs, options = {}) => {
    expectList(name, "inputs", inputs, "tensors");
    checkConfig(name, options, ["axis", "reverse"]);
    const { axis = -1, reverse = false } = options;
    expectBoolean(name, "reverse", reverse);
    inputs.forEach((x, i) => {
      expectTensor(name, components[i] ?? `inputs[${String(i)}]`, x);
    });
    const first = inputs[0];
    if (!first || inputs.length !== n)
      throw new ConfigError(name, `given ${inputs.length} tensors; it takes ${components.join(", ")}`);
    inputs.forEach((x, i) => {
      expectDType(name, components[i]!, x, "f32");
      if (x.rank !== first.rank || x.shape.some((m, j) => m !== first.shape[j])) {
        throw new ShapeError(
          name,
          `${components[i]!} has shape ${showShape(x.shape)}, ${components[0]!} ${showShape(first.shape)}; they must be equal`,
        );
      }
    });
    const along = normalizeAxis(name, axis, first.rank);
    const [outer, extent, inner] = [
      sizeOf(first.shape.slice(0, along)),
      first.shape[along]!,
      sizeOf(first.shape.slice(along + 1)),
    ];
    const flag = reverse ? 1 : 0;
    return applyOp({
      name,
      inputs,
      forward: () => ({
        outputs:
          first.size === 0
            ? inputs.map((x) => x.alias(x.shape))
            : runScan(inputs, outer, extent, inner, flag, first.shape),
      }),
      backward: ({ grads, outputs }) => {
        if (first.size === 0) return inputs.map(() => undefined);
        const gpu = first.gpu;
        const gs = grads.map((g) => g ?? gpu.zeros(first.shape));
        const dxs = inputs.map(() => gpu.empty(first.shape));
        gpu.run(backwardKernel, {
          bindings: { ...named("x", inputs), ...named("y", outputs), ...named("g", gs), ...named("dx", dxs) },
          params: { outer, extent, inner, chunk: extent, chunks: 1, reverse: flag },
          workgroups: grid1d(Math.ceil((outer * inner) / 64)),
        });
        return dxs;
      },
    });
  };
}

const sumScan = associativeScan("cumsum", ["value"], (l, r) => [e.add(l[0]!, r[0]!)]);

export interface CumsumOptions extends ScanOptions {
  /** Leave out the element itself: the sum of those before it (after it, with `reverse`). */
  readonly exclusive?: boolean;
}

/**
 * Cumulative sum along an axis, the last by default: y_t = sum_{s <= t} x_s, or sum_{s < t} x_s with `exclusive`.
 *
 * x f32 of any shape. The exclusive sum is that of the shifted elements: it loses nothing to a difference of sums.
 *
 * @throws ShapeError, DTypeError, ConfigError
 */
export function cumsum(x: Tensor, options: CumsumOptions = {}): Tensor {
  const who = "cumsum";
  expectDType(who, "x", x, "f32");
  checkConfig(who, options, ["axis", "reverse", "exclusive"]);
  const { exclusive = false, ...scan } = options;
  expectBoolean(who, "exclusive", exclusive);
  const axis = normalizeAxis(who, scan.axis === undefined ? -1 : scan.axis, x.rank);
  if (!exclusive || x.size === 0) return sumScan([x], scan)[0]!;
  return x.gpu.scope(() => {
    const zero = x.gpu.zeros(x.shape.map((n, i) => (i === axis ? 1 : n)));
    const shifted = scan.reverse
      ? concat([slice(x, { axis, start: 1 }), zero], axis)
      : concat([zero, slice(x, { axis, end: -1 })], axis);
    return sumScan([shifted], scan)[0]!;
  });
}

const recurrence = associativeScan("linearRecurrence", ["a", "b"], (l, r) => [
  e.mul(l[0]!, r[0]!),
  e.add(e.mul(r[0]!, l[1]!), r[1]!),
]);

/** h_t = a_t h_{t-1} + b_t along an axis, with h_{-1} = 0. */
export function linearRecurrence(a: Tensor, b: Tensor, options: ScanOptions = {}): Tensor {
  expectTensor("linearRecurrence", "a", a);
  expectTensor("linearRecurrence", "b", b);
  return a.gpu.scope(() => recurrence([a, b], options)[1]!);
}
