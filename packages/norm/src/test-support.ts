import { describe } from "vitest";
import { type Gpu, type Tensor } from "@x/kernels";
import { product, useGpu, type Operand } from "@x/testing";

/** Shapes off every tile and piece: one feature, one token, widths around 64, and one past the registers. */
export const SHAPES: readonly (readonly number[])[] = [
  [1, 1, 1],
  [2, 3, 3],
  [1, 5, 8],
  [3, 2, 63],
  [1, 2, 65],
  [5, 132],
];

/** Widths whose gradients are not looked at one by one. */
export const WIDE: readonly (readonly number[])[] = [
  [70, 64],
  [19, 1024],
  [3, 1030],
  [2, 4100],
];

/** The same tests with the adapter's subgroups, as a GPU uses them, and without. */
export function eachForm(name: string, body: (device: { readonly gpu: Gpu }) => void): void {
  for (const [label, options] of [
    ["with the adapter's subgroups", {}],
    ["with subgroups as on a GPU", { hardware: true }],
    ["without subgroups", { features: { subgroups: false } }],
  ] as const)
    describe(`${name} ${label}`, () => {
      body(useGpu(options));
    });
}

/** A row operand that stays away from zero, where norms are not smooth. */
export const rowsOf = (shape: readonly number[], data: (i: number) => number): Operand => ({
  shape,
  data: Float64Array.from({ length: product(shape) }, (_, i) => Math.fround(data(i))),
});

export const upload = (gpu: Gpu, { data, shape }: Operand): Tensor => gpu.tensor(data, shape);
