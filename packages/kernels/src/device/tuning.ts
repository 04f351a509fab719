/** What measurements chose on an adapter; see `tune`. */
export interface Tuning {
  /** Form of large products. */
  readonly matmul: "subgroup" | "tiled";
  /** Form of a few rows times a wide matrix [K, N]. */
  readonly vector: "wide" | "vector";
}
