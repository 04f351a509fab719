import type { Numbers } from "../../engine/attention.reference.js";

/** A complex number in float64. */
export type Complex = readonly [re: number, im: number];
export const cadd = (a: Complex, b: Complex): Complex => [a[0] + b[0], a[1] + b[1]];
export const cmul = (a: Complex, b: Complex): Complex => [
  a[0] * b[0] - a[1] * b[1],
  a[0] * b[1] + a[1] * b[0],
];
export const cdiv = (a: Complex, b: Complex): Complex => {
  const q = b[0] ** 2 + b[1] ** 2;
  return [(a[0] * b[0] + a[1] * b[1]) / q, (a[1] * b[0] - a[0] * b[1]) / q];
};
export const cexp = ([re, im]: Complex): Complex => [
  Math.exp(re) * Math.cos(im),
  Math.exp(re) * Math.sin(im),
];
/** Element i of a complex array with a last axis (re, im). */
export const at = (x: Numbers, i: number): Complex => [x[2 * i]!, x[2 * i + 1]!];
