import { quantForm, type PackedType } from "./forms.js";

/*
 * A block of 32 neighbours of the last axis, in four rows of a stored matrix, in registers. A fragment: the kernel that
 * includes it says what an invocation owns.
 *
 * Bindings of the matrix `name`: its quants as vec4<u32>; name_high and name_scales as in `loads.wgsl.ts`.
 */

/** Words of the quants of a block. */
const wordsOf = (dtype: PackedType): number => {
  const bits = quantForm(dtype)?.bits ?? 16;
  return bits === 16 ? 16 : bits === 8 ? 8 : 4;
};

const sequence = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Loads a block's quants, and their higher bits, in row j of the four. */
export function blockLoads(dtype: PackedType, name: string, j: number, at: string): string {
  const pieces = wordsOf(dtype) / 4;
  const loads = sequence(pieces).map((p) => `let q${j}_${p} = ${name}[(${at}) * ${pieces}u + ${p}u];`);
  const bits = quantForm(dtype)?.bits;
  if (bits === 5 || bits === 6) loads.push(`let h${j} = ${name}_high[${at}];`);
  return loads.join(" ");
}

const four = (component: (j: number) => string): string => `vec4u(${sequence(4).map(component).join(", ")})`;

/** `w0`, `w1`, ..: each word of the block in the four rows; `high0`, `high1` those of the higher bits. */
export function wordsOfBlock(dtype: PackedType): string {
  const bits = quantForm(dtype)?.bits;
  const words = sequence(wordsOf(dtype)).map(
    (n) => `let w${n} = ${four((j) => `q${j}_${n >> 2}[${n & 3}]`)};`,
  );
  if (bits === 5) words.push(`let high0 = ${four((j) => `h${j}`)};`);
  if (bits === 6) for (const n of [0, 1]) words.push(`let high${n} = ${four((j) => `h${j}[${n}]`)};`);
  return words.join("\n    ");
}

/** Element e of the block in the four rows, as vec4f; of a quantised form the quants, without offset and scale. */
export function fourColumns(dtype: PackedType, e: number): string {
  const bits = quantForm(dtype)?.bits;
  if (bits === undefined) {
    const word = `w${e >> 1}`;
    if (dtype === "bf16")
      return `bitcast<vec4f>(${e % 2 === 0 ? `${word} << vec4u(16u)` : `${word} & vec4u(0xffff0000u)`})`;
    return `vec4f(${sequence(4)
      .map((j) => `unpack2x16float(${word}[${j}])[${e % 2}]`)
      .join(", ")})`;
  }
  // Conversions of signed integers are one instruction on a CPU; those of unsigned ones are many.
  if (bits === 8) return `vec4f(bitcast<vec4i>(w${e >> 2} << vec4u(${24 - 8 * (e % 4)}u)) >> vec4u(24u))`;
  const low = `((w${(e % 16) >> 2} >> vec4u(${8 * (e % 4) + (e < 16 ? 0 : 4)}u)) & vec4u(15u))`;
  if (bits === 4) return `vec4f(bitcast<vec4i>(${low}))`;
  const [word, shift, mask] = bits === 5 ? ["high0", e, 1] : [`high${e >> 4}`, 2 * (e % 16), 3];
  return `vec4f(bitcast<vec4i>(${low} | (((${word} >> vec4u(${shift}u)) & vec4u(${mask}u)) << vec4u(4u))))`;
}
