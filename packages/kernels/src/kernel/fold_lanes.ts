/**
 * WGSL that folds the 64 values of a workgroup, `values[0..63]` of its invocations `lane`, into values[0] as a tree:
 * values[i] = op(values[i], values[i + half]) for half = 32, 16, .. 1. The caller's next barrier comes before other
 * invocations read values[0].
 *
 * The step is written so that compilers do not count the rounds: they would write the six of them out, and with a barrier
 * in each the software adapter then compiles a kernel of several sums four times as long.
 *
 * @param values name of an array in workgroup memory, to which each invocation has written its element
 * @param op a WGSL expression of two elements; their sum where it is left out
 */
export function foldLanes(
  values: string,
  op: (a: string, b: string) => string = (a, b) => `${a} + ${b}`,
): string {
  return /* wgsl */ `
  for (var half = 32u; half > 0u; half -= (half + 1u) / 2u) {
    workgroupBarrier();
    if (lane < half) { ${values}[lane] = ${op(`${values}[lane]`, `${values}[lane + half]`)}; }
  }`;
}
