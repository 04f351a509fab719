import type { BindingSpec } from "../kernel/kernel.js";
import { planesOf, quantForm, type PackedType, type QuantForm } from "./forms.js";

/*
 * Loads of the elements of a tensor in a stored form, widened to f32 in registers. A fragment: the kernel that
 * includes it says what an invocation owns.
 *
 * Bindings of a tensor `name` [..., K]: name, the quants as u32 words, or half floats as words of two (as vec2 where K
 * is a multiple of four); name_high, the fifth and sixth bits; name_scales, the scales, in words. Their layouts are
 * in `forms.ts` and `pack.ts`.
 */

/** Binding names of a stored tensor's planes. */
export const planeName = (name: string, plane: string): string => (plane === "" ? name : `${name}_${plane}`);

/** Bindings of the planes of a tensor; `words`: the element of the plane of quants. */
export function storedBindings(dtype: PackedType, name: string, words: string): Record<string, BindingSpec> {
  return Object.fromEntries(
    planesOf(dtype).map((plane) => {
      const element =
        plane.name === "" ? words : plane.name === "high" && dtype === "q6_k" ? "vec2<u32>" : "u32";
      return [planeName(name, plane.name), `read ${element}` as const];
    }),
  );
}

/** Element of the plane of quants for `storedLoads`. */
export const loadWords = (dtype: PackedType, vec: boolean): string =>
  quantForm(dtype) === undefined && vec ? "vec2<u32>" : "u32";

/** `name_scale(piece)`: scale and minimum of a piece of sixteen elements, as (s, m) of s q + m. */
export function scaleFunction({ scales, offset }: QuantForm, name: string): string {
  const body = {
    half: `let block = piece / 2u;
  let d = unpack2x16float(${name}_scales[block / 2u])[block % 2u];
  return vec2f(d, d * ${-offset}.0);`,
    pair: `return unpack2x16float(${name}_scales[piece / 2u]);`,
    bytes: `let at = piece / 16u * 5u;
  let j = piece / 2u % 8u;
  let d = unpack2x16float(${name}_scales[at]);
  let s = (${name}_scales[at + 1u + j / 4u] >> (j % 4u * 8u)) & 255u;
  let m = (${name}_scales[at + 3u + j / 4u] >> (j % 4u * 8u)) & 255u;
  return vec2f(d.x * f32(s), -d.y * f32(m));`,
    signed: `let at = piece / 16u * 5u;
  let j = piece % 16u;
  let s = i32(${name}_scales[at + 1u + j / 4u] << (24u - j % 4u * 8u)) >> 24u;
  let d = unpack2x16float(${name}_scales[at]).x * f32(s);
  return vec2f(d, d * ${-offset}.0);`,
  }[scales];
  return `fn ${name}_scale(piece: u32) -> vec2f {
  ${body}
}`;
}

/** Four neighbouring quants from element `index`, as vec4f. */
function fourQuants({ bits }: QuantForm, name: string): string {
  if (bits === 8)
    return `let w = ${name}[index / 4u];
  let q = vec4f(vec4i(vec4u(w) << vec4u(24u, 16u, 8u, 0u)) >> vec4u(24u));`;
  const high = {
    4: "",
    5: ` | (((vec4u(${name}_high[index / 32u]) >> (vec4u(0u, 1u, 2u, 3u) + e)) & vec4u(1u)) << vec4u(4u))`,
    6: ` | (((vec4u(${name}_high[index / 32u][e / 16u]) >> (vec4u(0u, 2u, 4u, 6u) + e % 16u * 2u)) & vec4u(3u)) << vec4u(4u))`,
  }[bits];
  return `let e = index % 32u;
  let w = ${name}[index / 32u * 4u + e % 16u / 4u];
  let q = vec4f(vec4i(((vec4u(w) >> (vec4u(0u, 8u, 16u, 24u) + e / 16u * 4u)) & vec4u(15u))${high}));`;
}

/**
 * Functions `name_at(index)`, an element as f32, and `name4_at(index)`, four neighbours from a multiple of four as
 * vec4f (with `vec`).
 */
export function storedLoads(dtype: PackedType, name: string, vec: boolean): string {
  const form = quantForm(dtype);
  if (form)
    return /* wgsl */ `
${scaleFunction(form, name)}
fn ${name}4_at(index: u32) -> vec4f {
  ${fourQuants(form, name)}
  let s = ${name}_scale(index / 16u);
  return s.x * q + s.y;
}
fn ${name}_at(index: u32) -> f32 { return ${name}4_at(index / 4u * 4u)[index % 4u]; }`;
  const two =
    dtype === "bf16"
      ? `fn ${name}_two(w: u32) -> vec2f { return bitcast<vec2f>(vec2u(w << 16u, w & 0xffff0000u)); }`
      : `fn ${name}_two(w: u32) -> vec2f { return unpack2x16float(w); }`;
  if (!vec)
    return `${two}\nfn ${name}_at(index: u32) -> f32 { return ${name}_two(${name}[index / 2u])[index % 2u]; }`;
  return /* wgsl */ `
${two}
fn ${name}4_at(index: u32) -> vec4f {
  let w = ${name}[index / 4u];
  return vec4f(${name}_two(w.x), ${name}_two(w.y));
}
fn ${name}_at(index: u32) -> f32 { return ${name}_two(${name}[index / 4u][index / 2u % 2u])[index % 2u]; }`;
}
