import type { Gpu } from "../../device/gpu.js";
import { tileOf } from "./tiled.wgsl.js";

/** The ways to compute a product; `auto` chooses by shape, and by what `tune` measured or the adapter's features. */
export type MatmulForm = "auto" | "subgroup" | "tiled" | "vector" | "wide";

/** Multiply-adds from which a product is worth the compilation of the form with sixteen rows. */
const LARGE = 2 ** 27;

/** Rows per subgroup: sixteen amortise loads of b best; eight waste less of small products and compile in half the time. */
export const chooseRows = (M: number, work: number, vec: boolean): number =>
  vec && M >= 64 && work >= LARGE ? 16 : 8;

/** Workgroups of the larger tile that keep a GPU busy. */
const BUSY = 128;

/** Rows and columns of outputs of a thread of the tiled form: eight where their tiles are enough to keep a GPU busy. */
export const chooseTile = (M: number, N: number, count: number): 4 | 8 =>
  Math.ceil(M / tileOf(8)) * Math.ceil(N / tileOf(8)) * count >= BUSY ? 8 : 4;

export function hasFixedSubgroups(gpu: Gpu): boolean {
  const { subgroups, subgroupMinSize, subgroupMaxSize } = gpu.features;
  return subgroups && subgroupMinSize === subgroupMaxSize && subgroupMinSize >= 8 && subgroupMinSize <= 64;
}

/** Form of a product of M x N outputs. */
export function chooseTileForm(gpu: Gpu, M: number, N: number): "subgroup" | "tiled" {
  const { matmul = gpu.info.software ? "subgroup" : "tiled" } = gpu.tuning ?? {};
  const small = M < 32 || N < 32;
  return hasFixedSubgroups(gpu) && (small || matmul === "subgroup") ? "subgroup" : "tiled";
}

/** A workgroup of the wide form takes 256 columns: a CPU's cores are busy with few of those, a GPU's are not. */
function chooseVectorForm(gpu: Gpu): "wide" | "vector" {
  return gpu.tuning?.vector ?? (gpu.info.software ? "wide" : "vector");
}

/** Form of a product; `widens`: its operands and width suit the wide form. */
export function chooseForm(gpu: Gpu, M: number, N: number, widens: boolean): Exclude<MatmulForm, "auto"> {
  if (M > 4) return chooseTileForm(gpu, M, N);
  return widens ? chooseVectorForm(gpu) : "vector";
}
