import {
  applyOp,
  causalConv1d,
  concat,
  defineKernel,
  flip,
  grid1d,
  slice,
  type Kernel,
  type Tensor,
} from "@x/kernels";
import { product, spectra, type ProductVariant } from "./fft.wgsl.js";
import { direct, TILE, type DirectVariant } from "./long_convolution.wgsl.js";

/** How a long convolution is computed: "auto" takes the faster by length. */
export type ConvolutionForm = "auto" | "direct" | "fft";

const directKernel: Kernel<DirectVariant> = defineKernel({
  name: "longConvolution",
  bindings: { x: "read f32", w: "read f32", out: "write f32" },
  params: { batch: "u32", seq: "u32", dim: "u32", taps: "u32", tiles: "u32" },
  wgsl: direct,
});

const spectraKernel: Kernel<{ readonly block: number }> = defineKernel({
  name: "blockSpectra",
  bindings: { x: "read f32", out: "write vec2f" },
  params: {
    batch: "u32",
    seq: "u32",
    dim: "u32",
    blocks: "u32",
    stride_b: "u32",
    stride_t: "u32",
    stride_d: "u32",
  },
  wgsl: spectra,
});

const productKernel: Kernel<ProductVariant> = defineKernel({
  name: "blockProduct",
  bindings: { l: "read vec2f", r: "read vec2f", out: "write f32" },
  params: {
    batch: "u32",
    dim: "u32",
    blocks: "u32",
    filter_blocks: "u32",
    length: "u32",
    stride_b: "u32",
    stride_t: "u32",
    stride_d: "u32",
  },
  wgsl: product,
});

/**
 * Tokens of a block: few sizes, as each has kernels of its own. The transform of twice the longest fits the 16 KiB of
 * memory that every workgroup has.
 */
const BLOCKS = [64, 1024] as const;
type Block = (typeof BLOCKS)[number];

/** Tokens from which the transforms are faster. */
const FFT_FROM = { gpu: 512, software: 1024 };

/**
 * Causal convolution of every channel with a filter of its own: y_t = sum_{l < min(taps, t + 1)} filter_l x_{t - l}.
 *
 * x [batch, seq, dim], filter [dim, taps], f32; taps may be more or fewer than seq. Direct: seq taps / 2 products a
 * channel, 8 results from one window. By transforms: blocks of 64 or 1024 tokens, each transformed once (two channels
 * in one), and sums over pairs of blocks; besides inputs and result, two numbers for each of x and of the filter.
 */
export function longConvolution(
  x: Tensor,
  filter: Tensor,
  { form = "auto", block }: { readonly form?: ConvolutionForm; readonly block?: Block } = {},
): Tensor {
  const seq = x.shape[1]!;
  const from = x.gpu.info.software ? FFT_FROM.software : FFT_FROM.gpu;
  const transform = form === "fft" || (form === "auto" && Math.min(seq, filter.shape[1]!) >= from);
  return applyOp({
    name: "longConvolution",
    inputs: [x, filter],
    ...(transform
      ? transformed(x, filter, block ?? (seq <= BLOCKS[0] ? BLOCKS[0] : BLOCKS[1]))
      : directly(x, filter)),
  })[0]!;
}

type Form = Pick<Parameters<typeof applyOp>[0], "forward" | "backward">;

function directly(x: Tensor, filter: Tensor): Form {
  const { gpu } = x;
  const [batch, seq, dim] = x.shape as [number, number, number];
  const taps = filter.shape[1]!;
  const run = (of: DirectVariant["of"], a: Tensor, w: Tensor): Tensor => {
    const out = gpu.empty(of === "filter" ? filter.shape : x.shape);
    const tiles = Math.ceil((of === "filter" ? taps : seq) / TILE);
    const threads = (of === "filter" ? 1 : batch) * tiles * dim;
    gpu.run(directKernel, {
      variant: { of },
      bindings: { x: a, w, out },
      params: { batch, seq, dim, taps, tiles },
      workgroups: grid1d(Math.ceil(threads / 64)),
    });
    return out;
  };
  return {
    forward: () => ({ outputs: [run("y", x, filter)] }),
    backward: ({ grads, needs }) => [
      needs[0] ? run("x", grads[0]!, filter) : undefined,
      needs[1] ? run("filter", grads[0]!, x) : undefined,
    ],
  };
}

interface Layout {
  readonly batch: number;
  readonly seq: number;
  readonly stride_b: number;
  readonly stride_t: number;
  readonly stride_d: number;
}

function transformed(x: Tensor, filter: Tensor, block: Block): Form {
  const { gpu } = x;
  const [batch, seq, dim] = x.shape as [number, number, number];
  const taps = filter.shape[1]!;
  const sequence: Layout = { batch, seq, stride_b: seq * dim, stride_t: dim, stride_d: 1 };
  // Taps beyond the sequence meet no input.
  const filters: Layout = { batch: 1, seq: Math.min(taps, seq), stride_b: 0, stride_t: 1, stride_d: taps };
  const pairs = Math.ceil(dim / 2);
  const transform = (of: Tensor, layout: Layout): Tensor => {
    const blocks = Math.ceil(layout.seq / block);
    const out = gpu.empty([layout.batch, blocks, dim, block, 2]);
    gpu.run(spectraKernel, {
      variant: { block },
      bindings: { x: of, out },
      params: { ...layout, dim, blocks },
      workgroups: grid1d(layout.batch * blocks * pairs),
    });
    return out;
  };
  const blocks = Math.ceil(seq / block);
  const multiply = (of: ProductVariant["of"], l: Tensor, r: Tensor): Tensor => {
    const own = of === "filter";
    const out = gpu.empty(own ? filter.shape : x.shape);
    const length = own ? taps : seq;
    const { stride_b, stride_t, stride_d } = own ? filters : sequence;
    const filter_blocks = Math.ceil((own ? taps : filters.seq) / block);
    gpu.run(productKernel, {
      variant: { block, of },
      bindings: { l, r, out },
      params: { batch, dim, blocks, filter_blocks, length, stride_b, stride_t, stride_d },
      workgroups: grid1d((own ? filter_blocks : batch * blocks) * pairs),
    });
    return out;
  };
  return {
    forward: () => ({ outputs: [multiply("y", transform(filter, filters), transform(x, sequence))] }),
    // The spectra of the forward are made again: they would be twice the input to keep.
    backward: ({ grads, needs }) => {
      const g = transform(grads[0]!, sequence);
      return [
        needs[0] ? multiply("x", transform(filter, filters), g) : undefined,
        needs[1] ? multiply("filter", g, transform(x, sequence)) : undefined,
      ];
    },
  };
}

/**
 * The convolution of a sequence that goes on: `before` [batch, taps - 1, dim] are the inputs before x, oldest first, and
 * `inputs` those before what follows.
 */
export function continuedConvolution(
  x: Tensor,
  filter: Tensor,
  before: Tensor,
  form: ConvolutionForm = "auto",
): { y: Tensor; inputs: Tensor } {
  const [seq, taps] = [x.shape[1]!, filter.shape[1]!];
  // Few tokens against many taps: only their own outputs are computed.
  if (seq < taps) {
    const { out, state } = causalConv1d(x, flip(filter, 1), { state: before });
    return { y: out, inputs: state };
  }
  const all = concat([before, x], 1);
  const last = (n: number, of: Tensor): Tensor => slice(of, { axis: 1, start: all.shape[1]! - n });
  return { y: last(seq, longConvolution(all, filter, { form })), inputs: last(taps - 1, all) };
}
