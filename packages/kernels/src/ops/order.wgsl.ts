import { isFloat, type DType } from "../base/dtype.js";

/*
 * Functions that order elements by an integer key. A fragment without bindings: the kernels of `sorting.ts`
 * and `extremes.ts` include it, and say what their invocations own.
 */

/**
 * WGSL of `order_key(x)`: a u32 whose order is that of the elements. -0 equals 0; every NaN is one key, above all
 * others, whatever its sign. NaN is told by its bits, since a compiler may take comparisons with it as it likes.
 */
export function orderKey(dtype: DType): string {
  if (dtype === "u32") return "fn order_key(x: u32) -> u32 { return x; }";
  if (dtype === "i32") return "fn order_key(x: i32) -> u32 { return bitcast<u32>(x) ^ 0x80000000u; }";
  return /* wgsl */ `
fn order_key(x: ${dtype}) -> u32 {
  var bits = bitcast<u32>(f32(x));
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
  if (bits == 0x80000000u) { bits = 0u; }
  return select(bits | 0x80000000u, ~bits, bits >= 0x80000000u);
}`;
}

/**
 * WGSL of `rank_of(x)`, by which the extreme of a reduction wins: as `order_key`, turned round for the smallest. NaN
 * wins either way, so that it spreads.
 */
export function extremeRank(dtype: DType, largest: boolean): string {
  if (largest) return `${orderKey(dtype)}\nfn rank_of(x: ${dtype}) -> u32 { return order_key(x); }`;
  const nan = isFloat(dtype) ? "select(~key, key, key == 0xffffffffu)" : "~key";
  return `${orderKey(dtype)}\nfn rank_of(x: ${dtype}) -> u32 { let key = order_key(x); return ${nan}; }`;
}
