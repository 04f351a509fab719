import { expect } from "vitest";
import {
  concat,
  MATRIX_STD,
  randomNormal,
  slice,
  type Gpu,
  type ParameterPlan,
  type Tensor,
} from "@x/kernels";
import { numbers, product, relativeError } from "@x/testing";

/** Parameters of a plan with numbers of a fixed seed: matrices small, norms near one, what a rule draws as drawn. */
export function parametersOf(gpu: Gpu, plan: ParameterPlan, seed = 1): Record<string, Tensor> {
  return Object.fromEntries(
    Object.entries(plan).map(([name, { shape, init }], n) => {
      const random = { seed, stream: n };
      if (typeof init === "function") return [name, init(gpu, shape, random)];
      if (typeof init === "object" && init.std !== MATRIX_STD)
        return [name, randomNormal(gpu, shape, { ...random, std: init.std })];
      const data = numbers(product(shape), seed * 100 + n).map((x) =>
        typeof init === "number" ? init + 0.2 * x : x * 0.5,
      );
      return [name, gpu.tensor(data, shape)];
    }),
  );
}

export const random = (gpu: Gpu, shape: readonly number[], seed: number): Tensor =>
  gpu.tensor(numbers(product(shape), seed), shape);

/** Rows start..end of a sequence. */
export const rows = (x: Tensor, start: number, end: number): Tensor => slice(x, { axis: 1, start, end });

/** Outputs of consecutive pieces, joined. */
export function inPieces(
  gpu: Gpu,
  x: Tensor,
  lengths: readonly number[],
  step: (piece: Tensor) => Tensor,
): Tensor {
  return gpu.scope(() => {
    const outs: Tensor[] = [];
    let start = 0;
    for (const n of lengths) outs.push(step(rows(x, start, (start += n))));
    return concat(outs, 1);
  });
}

export async function expectSame(a: Tensor, b: Tensor, tolerance = 1e-5): Promise<void> {
  expect(a.shape).toEqual(b.shape);
  expect(relativeError(await a.read(), await b.read())).toBeLessThan(tolerance);
}

/** Live bytes must not grow over the steps after the second. */
export async function expectConstantMemory(
  gpu: Gpu,
  steps: number,
  step: (n: number) => void,
): Promise<void> {
  let bytes = 0;
  for (let n = 0; n < steps; n++) {
    gpu.scope(() => {
      step(n);
    });
    if (n === 1) bytes = gpu.memory().liveBytes;
  }
  await gpu.sync();
  expect(gpu.memory().liveBytes).toBe(bytes);
}

/** Changing row t of x changes no output before t. */
export async function expectCausal(
  gpu: Gpu,
  x: Tensor,
  t: number,
  forward: (x: Tensor) => Tensor,
): Promise<void> {
  const changed = Array.from(await x.read());
  const dim = x.shape[2]!;
  for (let d = 0; d < dim; d++) changed[t * dim + d]! += 1;
  const [a, b] = [gpu.scope(() => forward(x)), gpu.scope(() => forward(gpu.tensor(changed, x.shape)))];
  const [one, two] = [Array.from(await a.read()), Array.from(await b.read())];
  const before = t * a.shape[2]!;
  expect(two.slice(0, before)).toEqual(one.slice(0, before));
  expect(two.slice(before, before + a.shape[2]!)).not.toEqual(one.slice(before, before + a.shape[2]!));
}
