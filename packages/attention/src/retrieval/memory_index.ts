import {
  ConfigError,
  expectDType,
  expectGpu,
  expectInteger,
  expectShape,
  integer,
  pad,
  schema,
  stridedCopy,
  value,
  type Config,
  type Gpu,
  type Tensor,
} from "@x/kernels";
import { topkSearch, type SearchResult } from "./topk_search.js";

/** A store of vectors to search by inner product; positions count the vectors as they were added. */
export interface MemoryIndex {
  readonly size: number;
  readonly dim: number;
  /** Add f32 [n, dim]. */
  add(vectors: Tensor): Promise<void>;
  /** For queries f32 [n, dim]: min(k, size) entries each in rising order of position, [n, min(k, size)]; -1: none. */
  search(queries: Tensor, k: number): Promise<SearchResult>;
  dispose(): void;
}

const DIM = integer("Numbers of a vector.", { min: 1 });
const EXACT = schema("ExactIndex", {
  dim: DIM,
  capacity: integer("Vectors that fit before the store grows.", { min: 1, default: 1024 }),
});
const APPROXIMATE = schema("ApproximateIndex", { dim: DIM });
const LIBRARY = value(
  "An index of a library.",
  "an index with add and search",
  (given: unknown): given is VectorIndex =>
    typeof given === "object" &&
    given !== null &&
    ["add", "search"].every((name) => typeof Reflect.get(given, name) === "function"),
);

/** Exact search on the GPU; the store doubles when it is full. */
export class ExactIndex implements MemoryIndex {
  readonly dim: number;
  readonly #gpu: Gpu;
  #store: Tensor;
  #size = 0;

  /** @throws ConfigError */
  constructor(gpu: Gpu, config: Config<typeof EXACT>) {
    expectGpu(EXACT.name, gpu);
    const { dim, capacity } = EXACT.read(config);
    this.dim = dim;
    this.#gpu = gpu;
    this.#store = gpu.keep(gpu.zeros([capacity, dim]));
  }

  get size(): number {
    return this.#size;
  }

  add(vectors: Tensor): Promise<void> {
    const { n } = expectShape("ExactIndex.add", "vectors", vectors, ["n", this.dim]) as { n: number };
    expectDType("ExactIndex.add", "vectors", vectors, "f32");
    const end = this.#size + n;
    let capacity = this.#store.shape[0]!;
    while (capacity < end) capacity *= 2;
    if (capacity > this.#store.shape[0]!) {
      const grown = this.#gpu.keep(pad(this.#store, 0, 0, capacity - this.#store.shape[0]!));
      this.#store.dispose();
      this.#store = grown;
    }
    stridedCopy(
      "ExactIndex.add",
      [n, this.dim],
      { tensor: vectors, strides: [this.dim, 1] },
      { tensor: this.#store, offset: this.#size * this.dim, strides: [this.dim, 1] },
    );
    this.#size = end;
    return Promise.resolve();
  }

  /** @throws ConfigError, ShapeError, DTypeError */
  search(queries: Tensor, k: number): Promise<SearchResult> {
    return Promise.resolve(this.find(queries, k));
  }

  /** `search` without waiting. @throws ConfigError, ShapeError, DTypeError */
  find(queries: Tensor, k: number): SearchResult {
    const { n } = expectShape("ExactIndex.search", "queries", queries, ["n", this.dim]) as { n: number };
    return this.#gpu.scope(() => {
      const { indices, scores } = topkSearch(
        queries.reshape([1, n, this.dim]),
        this.#store.reshape([1, ...this.#store.shape]),
        k,
        { count: this.#size },
      );
      const shape = [n, Math.min(k, this.#size)];
      return { indices: indices.reshape(shape), scores: scores.reshape(shape) };
    });
  }

  dispose(): void {
    this.#store.dispose();
  }
}

/** What `ApproximateIndex` needs of a library; the `Index` of usearch (metric "ip") is of this form. */
export interface VectorIndex {
  add(keys: BigUint64Array, vectors: Float32Array): void;
  /** The neighbours of one vector. */
  search(
    vector: Float32Array,
    k: number,
    threads: number,
  ): { readonly keys: BigUint64Array; readonly distances: Float32Array };
}

/**
 * Approximate search by a library on the CPU (HNSW), behind the same interface: vectors and queries are read back,
 * the neighbours go to the GPU. Distances are 1 - inner product.
 *
 *     new ApproximateIndex(gpu, new Index(64, MetricKind.IP), { dim: 64 })   // of "usearch"
 */
export class ApproximateIndex implements MemoryIndex {
  readonly dim: number;
  readonly #gpu: Gpu;
  readonly #index: VectorIndex;
  #size = 0;

  /** @throws ConfigError */
  constructor(gpu: Gpu, index: VectorIndex, config: Config<typeof APPROXIMATE>) {
    expectGpu(APPROXIMATE.name, gpu);
    LIBRARY.check(APPROXIMATE.name, "index", index);
    this.dim = APPROXIMATE.read(config).dim;
    this.#gpu = gpu;
    this.#index = index;
  }

  get size(): number {
    return this.#size;
  }

  async add(vectors: Tensor): Promise<void> {
    const { n } = expectShape("ApproximateIndex.add", "vectors", vectors, ["n", this.dim]) as { n: number };
    expectDType("ApproximateIndex.add", "vectors", vectors, "f32");
    const first = this.#size;
    this.#size += n;
    const keys = BigUint64Array.from({ length: n }, (_, i) => BigInt(first + i));
    this.#index.add(keys, (await vectors.read()) as Float32Array);
  }

  async search(queries: Tensor, k: number): Promise<SearchResult> {
    const who = "ApproximateIndex.search";
    const { n } = expectShape(who, "queries", queries, ["n", this.dim]) as { n: number };
    expectDType(who, "queries", queries, "f32");
    expectInteger(who, "k", k, 1);
    if (this.#size === 0) throw new ConfigError(who, "the index is empty; add vectors first");
    const width = Math.min(k, this.#size);
    const indices = new Int32Array(n * width).fill(-1);
    const scores = new Float32Array(n * width).fill(-Infinity);
    const vectors = (await queries.read()) as Float32Array;
    for (let row = 0; row < n; row++) {
      const found = this.#index.search(vectors.subarray(row * this.dim, (row + 1) * this.dim), width, 0);
      Array.from(found.keys, (key, i) => ({ at: Number(key), score: 1 - found.distances[i]! }))
        .sort((a, b) => a.at - b.at)
        .forEach(({ at, score }, i) => {
          indices[row * width + i] = at;
          scores[row * width + i] = score;
        });
    }
    return {
      indices: this.#gpu.tensor(indices, [n, width], "i32"),
      scores: this.#gpu.tensor(scores, [n, width]),
    };
  }

  /** The library's index belongs to the caller. */
  dispose(): void {
    this.#size = 0;
  }
}
