import { ConfigError, FormatError } from "@x/kernels";
import {
  isEncoderDecoder,
  encoderDecoderConfig,
  modelConfig,
  tensorNames,
  type CheckpointNames,
  type Reading,
} from "../../families/index.js";
import { arranged, part, unarranged, type Laid } from "../names.js";
import type { ModelSource, StoredTensor } from "../stored.js";
import type { Adapter, Factors } from "./peft.js";

/** A change that is added to the products with one of the model's weights. */
export interface Term extends Omit<Factors, "module"> {
  /** The weight's name in the model. */
  readonly name: string;
}

/** Weights that only `linear` reads, so that a change may stand beside them. */
const ADAPTABLE =
  /\.self_attn\.[qkvo]_proj\.weight$|\.mlp\.(?:gate_proj|up_proj|down_proj|c_fc|c_proj|fc_in|fc_out)\.weight$|^lm_head\.weight$/;
const HEAD = "lm_head.weight";

export interface Adapted {
  /** The tensors, with what is not added to products merged into them. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly terms: readonly Term[];
}

export interface AdaptOptions {
  readonly path: string;
  readonly names: CheckpointNames;
  readonly tied: boolean;
  /** Whether changes may be added to products; else all are merged. */
  readonly onTop: boolean;
}

const keyOf = ({ targets, expert }: Reading): string => JSON.stringify([targets, expert]);

/** The numbers of another tensor in place of those of a file. */
function withNumbers(base: StoredTensor, floats: () => Promise<Float32Array>): StoredTensor {
  const { file, name, shape } = base;
  return { file, name, shape, type: "F32", readable: true, refusal: "", floats };
}

/** W + scale b a, rounded once, as the family's folder has W. */
function merged(base: StoredTensor, { a, b, scale }: Factors, reading: Reading): StoredTensor {
  return withNumbers(base, async () => {
    const { data, shape } = arranged({ data: await base.floats(), shape: base.shape }, reading);
    const [rows = 0, width = 0] = shape;
    const rank = a.shape[0]!;
    const out = new Float32Array(rows * width);
    const sums = new Float64Array(width);
    for (let i = 0; i < rows; i++) {
      sums.fill(0);
      for (let r = 0; r < rank; r++) {
        const factor = b.data[i * rank + r]!;
        for (let j = 0; j < width; j++) sums[j]! += factor * a.data[r * width + j]!;
      }
      for (let j = 0; j < width; j++) out[i * width + j] = data[i * width + j]! + scale * sums[j]!;
    }
    return unarranged({ data: out, shape }, reading).data as Float32Array;
  });
}

/** The adapters of a model, one after the other, on the tensors that its source holds. */
class Adaption {
  readonly #tensors: Map<string, StoredTensor>;
  readonly #given = new Set<string>();
  readonly #bases: ReadonlyMap<string, string>;
  readonly #options: AdaptOptions;
  readonly terms: Term[] = [];

  constructor(tensors: ReadonlyMap<string, StoredTensor>, options: AdaptOptions) {
    this.#tensors = new Map(tensors);
    this.#options = options;
    const read = options.names.reader([...tensors.keys()]);
    this.#bases = new Map(
      [...tensors.keys()].flatMap((name) => {
        const reading = read(name);
        return reading ? [[keyOf(reading), name] as const] : [];
      }),
    );
  }

  get tensors(): ReadonlyMap<string, StoredTensor> {
    return this.#tensors;
  }

  add(adapter: Adapter): void {
    const { path, factors, whole } = adapter;
    const read = this.#options.names.reader([
      ...factors.map(({ module }) => `${module}.weight`),
      ...whole.keys(),
    ]);
    const reading = (name: string): Reading => {
      const found = read(name);
      if (!found)
        throw new FormatError(path, `changes ${JSON.stringify(name)}, which is not a weight of the model`);
      return found;
    };
    this.#expectAll(adapter, new Set(factors.map(({ module }) => keyOf(reading(`${module}.weight`)))));
    for (const [name, tensor] of whole) this.#replace(path, name, reading(name), tensor);
    for (const one of factors) this.#change(path, one, reading(`${one.module}.weight`));
  }

  /** Modules that the configuration names must have factors; files may lack the prefix of the adapter's names. */
  #expectAll({ path, config }: Adapter, have: ReadonlySet<string>): void {
    for (const [key, name] of this.#bases) {
      const module = name.replace(/\.weight$/, "");
      const matrix = module !== name && this.#tensors.get(name)!.shape.length === 2;
      if (matrix && config.targets(module) && !have.has(key))
        throw new FormatError(path, `target_modules names ${module}, for which it holds no factors`);
    }
  }

  #base(path: string, name: string, reading: Reading): [string, StoredTensor] {
    const base = this.#bases.get(keyOf(reading));
    const tied = this.#options.tied && reading.targets.some((target) => target.name === HEAD);
    if (tied)
      throw new ConfigError(
        path,
        `changes ${name}, which the model ties to its embedding, so that they cannot differ in a folder`,
      );
    if (base === undefined)
      throw new FormatError(path, `changes ${name}, which ${this.#options.path} does not have`);
    return [base, this.#tensors.get(base)!];
  }

  #replace(path: string, name: string, reading: Reading, { shape, data }: Laid): void {
    const [base, tensor] = this.#base(path, name, reading);
    if (this.#given.has(base))
      throw new ConfigError(path, `holds all of ${name}; so does an adapter before it`);
    if (shape.join() !== tensor.shape.join())
      throw new FormatError(
        path,
        `holds ${name} of shape [${shape.join(", ")}]; the model has [${tensor.shape.join(", ")}]`,
      );
    this.#given.add(base);
    this.#tensors.set(
      base,
      withNumbers(tensor, () => Promise.resolve(data as Float32Array)),
    );
  }

  #change(path: string, one: Factors, reading: Reading): void {
    const { onTop, tied } = this.#options;
    const name = `${one.module}.weight`;
    const { targets, expert } = reading;
    const beside = onTop && expert === undefined && targets.every((target) => ADAPTABLE.test(target.name));
    // A tied head is read by products as the head and by lookups as the embedding: only products have the change.
    const head = beside && tied && targets[0]!.name === HEAD;
    const [base, tensor] = head ? this.#embedding(path, name) : this.#base(path, name, reading);
    const shape = reading.transposed ? tensor.shape.toReversed() : tensor.shape;
    const [out, width] = [one.b.shape[0]!, one.a.shape[1]!];
    if (shape.length !== 2 || shape[0] !== out || shape[1] !== width)
      throw new FormatError(
        path,
        `changes ${name} as a matrix [${out}, ${width}]; the model has [${shape.join(", ")}]`,
      );
    if (!beside) {
      this.#tensors.set(base, merged(tensor, one, reading));
      return;
    }
    for (const { name: target, rows } of targets)
      this.terms.push({
        name: target,
        a: one.a,
        b: rows ? part(path, name, one.b, rows) : one.b,
        scale: one.scale,
      });
  }

  #embedding(path: string, name: string): [string, StoredTensor] {
    const read = this.#options.names.reader([...this.#tensors.keys()]);
    for (const [base, tensor] of this.#tensors)
      if (read(base)?.targets.some((target) => /embed_tokens\.weight$|^lm_head\.weight$/.test(target.name)))
        return [base, tensor];
    throw new FormatError(path, `changes ${name}, which ${this.#options.path} does not have`);
  }
}

/**
 * A model's tensors with adapters: changes of weights that only products read stand beside them, as terms, where that is
 * asked for; all others (of embeddings and experts, and tensors that are given whole) are merged.
 *
 * @throws FormatError, ConfigError for an adapter of another model
 */
export function adapted(
  tensors: ReadonlyMap<string, StoredTensor>,
  adapters: readonly Adapter[],
  options: AdaptOptions,
): Adapted {
  const all = new Adaption(tensors, options);
  for (const adapter of adapters) all.add(adapter);
  return { tensors: all.tensors, terms: all.terms };
}

/** A model whose weights have the changes of adapters in them. */
export function mergedSource(source: ModelSource, adapters: readonly Adapter[]): ModelSource {
  if (adapters.length === 0) return source;
  return {
    ...source,
    open: async () => {
      const json = await source.config();
      const { tieEmbeddings: tied } = isEncoderDecoder(json, source.configFile)
        ? encoderDecoderConfig(json, source.configFile).decoder
        : modelConfig(json, source.configFile);
      const opened = await source.open();
      try {
        const names = tensorNames(json, source.configFile);
        const { tensors } = adapted(opened.tensors, adapters, {
          path: source.path,
          names,
          tied,
          onTop: false,
        });
        return { ...opened, tensors };
      } catch (error) {
        await opened.close();
        throw error;
      }
    },
  };
}
