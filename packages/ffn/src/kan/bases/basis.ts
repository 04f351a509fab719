import {
  applyOp,
  defineKernel,
  expectDType,
  grid1d,
  matmul,
  ShapeError,
  showShape,
  sumMiddle,
  type BindingSpec,
  type Kernel,
  type Tensor,
  flatMain,
} from "@x/kernels";

/**
 * A family of functions of one variable, b_0..b_{n-1}, that a KAN layer expands every feature in. One instance is a
 * description for one layer: how many functions, and what their kernels read.
 */
export interface Basis {
  /** Number of functions n of a feature. */
  readonly count: number;
  readonly kernels: BasisKernels;
  /** Knots [features, count + order + 1] of B-splines, if they are not uniform. */
  readonly grid?: Tensor;
  /** Uniform knots: knot j is low + (j - order) step. */
  readonly low?: number;
  readonly step?: number;
  /** What changes the kernels' text. */
  readonly variant: BasisVariant;
}

export interface BasisVariant {
  /** Order of a spline. */
  readonly order?: number;
  /** Its knots are uniform, and computed. */
  readonly uniform?: boolean;
  /** Chebyshev: the argument is tanh(x). */
  readonly squash?: boolean;
}

export interface BasisKernels {
  readonly forward: Kernel<BasisVariant>;
  readonly backward: Kernel<BasisVariant>;
}

/**
 * Kernels of a basis from its WGSL. The text defines `expand(x, feature, base)`, which writes the n values of
 * `phi[base..]`, and `pull(x, feature, base)`, which returns the sum of `dphi[base + j] b_j'(x)`. One invocation owns
 * one feature of one token.
 */
export function basisKernels(
  name: string,
  text: { readonly expand: (v: BasisVariant) => string; readonly pull: (v: BasisVariant) => string },
  grid = false,
): BasisKernels {
  const extra = (v: BasisVariant): Record<string, BindingSpec> =>
    grid && v.uniform !== true ? { grid: "read f32" } : {};
  const params = { count: "u32", features: "u32", n: "u32", low: "f32", step: "f32" } as const;
  const main = (body: string): string => /* wgsl */ `
${flatMain("at", "params.count")}
  ${body}
}`;
  return {
    forward: defineKernel({
      name,
      bindings: (v: BasisVariant) => ({ x: "read f32", ...extra(v), phi: "write f32" }),
      params,
      wgsl: (v: BasisVariant) => text.expand(v) + main("expand(x[at], at % params.features, at * params.n);"),
    }),
    backward: defineKernel({
      name: `${name}Backward`,
      bindings: (v: BasisVariant) => ({
        x: "read f32",
        ...extra(v),
        dphi: "read f32",
        dx: "write f32",
      }),
      params,
      wgsl: (v: BasisVariant) =>
        text.pull(v) + main("dx[at] = pull(x[at], at % params.features, at * params.n);"),
    }),
  };
}

function run(basis: Basis, x: Tensor, backward: boolean, bindings: Record<string, Tensor>): void {
  x.gpu.run(backward ? basis.kernels.backward : basis.kernels.forward, {
    variant: basis.variant,
    bindings: { x, grid: basis.grid, ...bindings },
    params: {
      count: x.size,
      features: x.shape.at(-1)!,
      n: basis.count,
      low: basis.low ?? 0,
      step: basis.step ?? 0,
    },
    workgroups: grid1d(Math.ceil(x.size / 64)),
  });
}

function expand(basis: Basis, x: Tensor): Tensor {
  const phi = x.gpu.empty([...x.shape, basis.count]);
  run(basis, x, false, { phi });
  return phi;
}

function pull(basis: Basis, x: Tensor, dphi: Tensor): Tensor {
  const dx = x.gpu.empty(x.shape);
  run(basis, x, true, { dphi, dx });
  return dx;
}

/** x [..., I] to [..., I, n]: every function of every feature. */
export function basisValues(who: string, x: Tensor, basis: Basis): Tensor {
  return applyOp({
    name: who,
    inputs: [x],
    forward: () => ({ outputs: [expand(basis, x)] }),
    backward: ({ grads }) => [pull(basis, x, grads[0]!)],
  })[0]!;
}

/**
 * A layer whose edges are linear in the basis: out[o] = sum over i, j of b_j(x_i) weight[o, i, j] (+ bias +
 * residual), as one matrix product over the expanded features. The expansion, n times as large as x, is made again for the
 * backward and kept by neither pass.
 *
 * x [..., I]; weight [O, I, n]; bias [O]; residual [..., O].
 */
export function basisLinear(
  who: string,
  x: Tensor,
  weight: Tensor,
  basis: Basis,
  { residual, bias }: { readonly residual?: Tensor | undefined; readonly bias?: Tensor | undefined } = {},
): Tensor {
  const features = x.shape.at(-1) ?? 0;
  const [outputs = 0, inputs, n] = weight.shape;
  if (inputs !== features || n !== basis.count)
    throw new ShapeError(
      who,
      `x has shape ${showShape(x.shape)} and the basis ${String(basis.count)} functions; the weight, per output, is ${showShape(weight.shape.slice(1))}`,
    );
  const shape = [...x.shape.slice(0, -1), outputs];
  const width = features * basis.count;
  const rows = x.size / Math.max(features, 1);
  const flat = (): Tensor => expand(basis, x).reshape([rows, width]);
  return applyOp({
    name: who,
    inputs: [x, weight, residual, bias],
    forward: () => {
      const out = matmul(flat(), weight.reshape([outputs, width]), {
        transposeB: true,
        residual: residual?.reshape([rows, outputs]),
        bias,
      });
      return { outputs: [out.reshape(shape)] };
    },
    backward: ({ grads, needs }) => {
      const g = grads[0]!.reshape([rows, outputs]);
      const w = weight.reshape([outputs, width]);
      return [
        needs[0] ? pull(basis, x, matmul(g, w)) : undefined,
        needs[1] ? matmul(g, flat(), { transposeA: true }).reshape(weight.shape) : undefined,
        needs[2] ? grads[0] : undefined,
        needs[3] ? sumMiddle(g, 1, rows, outputs).reshape([outputs]) : undefined,
      ];
    },
  })[0]!;
}

/** The input of a KAN layer: f32 with at least one axis. */
export function expectFeatures(who: string, x: Tensor): number {
  expectDType(who, "x", x, "f32");
  if (x.rank === 0) throw new ShapeError(who, "x is a scalar; its last axis must be the features");
  return x.shape.at(-1)!;
}
