/** Numbers of a benchmark's input or output, in row-major order. */
export interface HostTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

export type Inputs = Readonly<Record<string, HostTensor>>;

/** Normal numbers from a seed (mulberry32 and Box-Muller), the same in every process. */
export function normals(shape: readonly number[], seed: number, std = 1, mean = 0): HostTensor {
  const size = shape.reduce((n, d) => n * d, 1);
  const data = new Float32Array(size);
  let state = (seed * 0x9e3779b9) >>> 0;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  for (let i = 0; i < size; i++) {
    data[i] = mean + std * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  }
  return { shape, data };
}

/** Largest difference over the largest expected magnitude; Infinity if anything is not finite or has another size. */
export function maxError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let difference = 0;
  let largest = 1e-30;
  for (let i = 0; i < expected.length; i++) {
    const d = Math.abs(actual[i]! - expected[i]!);
    if (!Number.isFinite(d)) return Infinity;
    difference = Math.max(difference, d);
    largest = Math.max(largest, Math.abs(expected[i]!));
  }
  return difference / largest;
}

/** Euclidean length of the difference over that of what was expected. */
export function normError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let difference = 0;
  let length = 1e-60;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    length += expected[i]! ** 2;
  }
  const error = Math.sqrt(difference / length);
  return Number.isFinite(error) ? error : Infinity;
}
