import { FormatError } from "@x/kernels";

/** Neighbouring rows of a checkpoint's tensor. */
export type Rows = readonly (readonly [first: number, count: number])[];

/** How a checkpoint's tensor lies, where that is not how the model's does. */
export interface Layout {
  /** The rows of each of the model's tensors, where the checkpoint holds several in one. */
  readonly rows?: readonly Rows[];
  /** The axis of the rows, where it is not that of a matrix's outputs or a vector's features. */
  readonly axis?: number;
  /** Matrices are stored as [in, out]. */
  readonly transposed?: true;
  /** An axis of length 1 that the model leaves out. */
  readonly without?: number;
}

/**
 * A checkpoint's name and the model's, or several where the checkpoint's tensor holds them all. A name is that of a
 * module or of a tensor: what follows it stays. "#" is the number of an expert of a stack. Where two rules name the same
 * tensor of the model, files are written by the first.
 */
export type TensorRule = readonly [from: string, to: string | readonly string[], layout?: Layout];

/** Where a family's checkpoints have the tensors of a model; names that no rule has are the model's own. */
export interface TensorTable {
  /** What stands before the model's own names. Default: "model.". */
  readonly model?: string;
  /** What stands before all names but the head's; checkpoints without it, or inside another module, are read too. */
  readonly prefix?: string;
  /** The list of blocks below the prefix. Default: layers. */
  readonly layers?: string;
  /** Rules below the prefix; the model's names are those below its own prefix. */
  readonly root?: readonly TensorRule[];
  /** Rules below a block. */
  readonly layer?: readonly TensorRule[];
  /** The output matrix. Default: lm_head. */
  readonly head?: string;
  /** Names below a block or the prefix that some checkpoints hold though the model computes them. */
  readonly computed?: readonly string[];
}

/** A tensor of the model inside one of a checkpoint. */
export interface Target {
  readonly name: string;
  /** Its rows; absent: all. */
  readonly rows?: Rows | undefined;
}

/** What a checkpoint's tensor holds. */
export interface Reading extends Layout {
  readonly targets: readonly Target[];
  /** Which expert of the model's stacks it is. */
  readonly expert?: number | undefined;
}

/** A checkpoint's tensor, from tensors of the model. */
export interface Writing extends Layout {
  readonly name: string;
  readonly targets: readonly string[];
  /** The checkpoint's names of the experts that the model stacks. */
  readonly expertName?: ((index: number) => string) | undefined;
}

/** Experts one by one, which the model stacks: the same in every family unless its rules say otherwise. */
const EXPERTS = /^(.+\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight$/;
const STACK = /^(.+\.experts)\.(gate_proj|up_proj|down_proj)$/;
const COMPUTED = /(^|\.)rotary_emb\.inv_freq$/;
const MODEL = "model.";

/** What remains of a name after a rule's, or undefined where the rule is of another name. */
function rest(rule: string, name: string): { readonly tail: string; readonly expert?: number } | undefined {
  const [before, after] = rule.split("#");
  if (after === undefined)
    return name === rule || name.startsWith(`${rule}.`) ? { tail: name.slice(rule.length) } : undefined;
  const digits = name.startsWith(before!) ? /^\d+/.exec(name.slice(before!.length)) : null;
  if (!digits || !name.startsWith(after, before!.length + digits[0].length)) return undefined;
  const tail = name.slice(before!.length + digits[0].length + after.length);
  return tail === "" ? { tail, expert: Number(digits[0]) } : undefined;
}

const listed = (to: TensorRule[1]): readonly string[] => (typeof to === "string" ? [to] : to);

/** The names of a family's checkpoints and of its models, both ways. */
export interface CheckpointNames {
  /** How to read the tensors of a checkpoint with these names; undefined for what the model computes. */
  reader(names: readonly string[]): (name: string) => Reading | undefined;
  /** The tensors of a checkpoint that hold the model's tensors with these names, in their order. @throws FormatError */
  writings(names: readonly string[]): Writing[];
  /** A checkpoint's name of one of the model's tensors. */
  nameOf(name: string): string;
}

/** The names of one stack of blocks. */
export class TensorNames implements CheckpointNames {
  readonly #model: string;
  readonly #prefix: string;
  readonly #layers: string;
  readonly #head: string;
  readonly #root: readonly TensorRule[];
  readonly #layer: readonly TensorRule[];
  readonly #computed: readonly string[];

  constructor({
    model = MODEL,
    prefix = model,
    layers = "layers",
    root = [],
    layer = [],
    head = "lm_head",
    computed = [],
  }: TensorTable) {
    this.#model = model;
    this.#prefix = prefix;
    this.#layers = layers;
    this.#head = head;
    this.#root = root;
    this.#layer = layer;
    this.#computed = computed;
  }

  /**
   * How to read the tensors of a checkpoint with these names: for each what it holds, or undefined where the model
   * computes it. Files of a bare decoder ("h.0..") and of one inside another module ("language_model.model.") are
   * those of the family with another prefix.
   */
  reader(names: readonly string[]): (name: string) => Reading | undefined {
    const wrapper = this.#wrapper(names);
    return (name) => {
      if (COMPUTED.test(name)) return undefined;
      if (name === this.#head || name === `${this.#head}.weight` || name.endsWith(`.${this.#head}.weight`))
        return { targets: [{ name: "lm_head.weight" }] };
      if (!name.startsWith(wrapper)) return { targets: [{ name }] };
      const own = name.slice(wrapper.length);
      const ofRoot = this.#root.some(([from]) => rest(from, own) !== undefined);
      const block = ofRoot ? null : new RegExp(`^${this.#layers}\\.(\\d+)\\.(.+)$`).exec(own);
      const [at, below, rules] = block
        ? ([`${this.#model}layers.${block[1]!}.`, block[2]!, this.#layer] as const)
        : ([this.#model, own, this.#root] as const);
      if (this.#computed.includes(below)) return undefined;
      return this.#reading(at, below, rules);
    };
  }

  #reading(at: string, below: string, rules: readonly TensorRule[]): Reading {
    const matches = rules.flatMap(([from, to, layout = {}]) => {
      const found = rest(from, below);
      return found ? [{ from, to, layout, ...found }] : [];
    });
    const match = matches.sort((a, b) => b.from.length - a.from.length)[0];
    if (match) {
      const { to, layout, tail, expert } = match;
      const targets = listed(to).map((name, i) => ({
        name: `${at}${name}${tail}`,
        rows: layout.rows?.[i],
      }));
      return { ...layout, targets, expert };
    }
    const expert = EXPERTS.exec(below);
    if (expert) return { targets: [{ name: `${at}${expert[1]!}.${expert[3]!}` }], expert: Number(expert[2]) };
    return { targets: [{ name: `${at}${below}` }] };
  }

  /** What stands before the names of a checkpoint: before its embedding, else before its blocks. */
  #wrapper(names: readonly string[]): string {
    const embedding = `${this.#root.find(([, to]) => to === "embed_tokens")?.[0] ?? "embed_tokens"}.weight`;
    const block = new RegExp(`^((?:[A-Za-z_]\\w*\\.)*?)${this.#layers}\\.\\d+\\.`);
    const before = (name: string): string | undefined => {
      if (name === embedding) return "";
      return name.endsWith(`.${embedding}`) ? name.slice(0, -embedding.length) : undefined;
    };
    for (const find of [before, (name: string) => block.exec(name)?.[1]])
      for (const name of names) {
        const found = find(name);
        if (found !== undefined) return found;
      }
    return this.#prefix;
  }

  /** The tensors of a checkpoint that hold the model's tensors with these names, in their order. */
  writings(names: readonly string[]): Writing[] {
    const out = new Map<string, Writing>();
    const have = new Set(names);
    for (const name of names) {
      const writing = this.#writing(name);
      if (out.has(writing.name)) continue;
      const lost = writing.targets.find((target) => !have.has(target));
      if (lost !== undefined)
        throw new FormatError(writing.name, `holds ${lost}, which the model does not have`);
      out.set(writing.name, writing);
    }
    return [...out.values()];
  }

  /** A checkpoint's name of one of the model's tensors. */
  nameOf(name: string): string {
    const { name: whole, expertName } = this.#writing(name);
    return expertName?.(0) ?? whole;
  }

  #writing(name: string): Writing {
    if (name === "lm_head.weight") return { name: `${this.#head}.weight`, targets: [name] };
    if (!name.startsWith(this.#model)) return { name, targets: [name] };
    const own = name.slice(this.#model.length);
    const block = /^layers\.(\d+)\.(.+)$/.exec(own);
    const [at, to, below, rules] = block
      ? ([
          `${this.#model}layers.${block[1]!}.`,
          `${this.#prefix}${this.#layers}.${block[1]!}.`,
          block[2]!,
          this.#layer,
        ] as const)
      : ([this.#model, this.#prefix, own, this.#root] as const);
    const matches = rules.flatMap(([from, targets, layout = {}]) =>
      listed(targets).flatMap((target) => {
        const found = rest(target, below);
        return found ? [{ from, targets: listed(targets), layout, target, tail: found.tail }] : [];
      }),
    );
    const match = matches.sort((a, b) => b.target.length - a.target.length)[0];
    if (match) {
      const { from, targets, layout, tail } = match;
      const expertName = from.includes("#")
        ? (i: number) => `${to}${from.replace("#", String(i))}`
        : undefined;
      return {
        ...layout,
        name: `${to}${from}${tail}`,
        targets: targets.map((one) => `${at}${one}${tail}`),
        expertName,
      };
    }
    const stack = STACK.exec(below);
    const expertName = stack ? (i: number) => `${to}${stack[1]!}.${i}.${stack[2]!}.weight` : undefined;
    return { name: `${to}${below}`, targets: [name], expertName };
  }
}
