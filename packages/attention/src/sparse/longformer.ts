import {
  cast,
  checkConfig,
  ConfigError,
  e,
  elementwise,
  expectBoolean,
  expectDType,
  expectInteger,
  expectShape,
  gather,
  mul,
  scatterAdd,
  transpose,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { attention, attentionOutputs } from "../engine/attention.js";
import { mergeHeads, splitHeads } from "../block/heads.js";
import { hideRows } from "../block/hidden_rows.js";
import { mergeAttention } from "../engine/merge.js";
import {
  checkParameters,
  initParameters,
  matrix,
  zeros,
  type InitOptions,
  type Plan,
} from "../parameters.js";
import { dilatedWindow } from "../patterns/pattern.js";

export interface LongformerConfig {
  readonly dim: number;
  readonly numHeads: number;
  readonly headDim: number;
  /** Keys to see on each side; a published `attention_window` of 2w is left: w, right: w. */
  readonly left: number;
  readonly right: number;
  /** Distance between neighbours in the window, one number or one per head; default 1. */
  readonly dilation?: number | readonly number[];
  /** Biases in all projections; default false. */
  readonly bias?: boolean;
}

export interface LongformerOptions {
  /** i32 [batch, seq]: 1 is a token, 0 padding. */
  readonly keyMask?: Tensor | undefined;
  /** Positions of the global tokens of each batch row; entries that point at padding are ignored. */
  readonly globalTokens?: readonly (readonly number[])[] | undefined;
}

const LOCAL = ["q_proj", "k_proj", "v_proj"];
const GLOBAL = ["q_global_proj", "k_global_proj", "v_global_proj"];

const replaceRows = elementwise(
  "longformerRows",
  ["local", "global", "isGlobal"],
  (local, global, isGlobal) => e.add(e.mul(local, e.sub(1, isGlobal)), global),
);

/**
 * Longformer attention: a row sees the keys of its (dilated) window and the global tokens, with local projections; a
 * global token sees every key, with projections of its own. A padded row's context is 0.
 *
 * x [batch, seq, dim]. Parameters q_proj, k_proj, v_proj, q_global_proj, k_global_proj, v_global_proj [numHeads
 * headDim, dim], o_proj [dim, numHeads headDim] (`.weight`, with `bias` also `.bias`). Bidirectional, no cache.
 * Beltagy et al. 2020, arXiv:2004.05150, section 3.1.
 */
export class LongformerAttention implements Module {
  readonly config: LongformerConfig;
  readonly #p: Record<string, Tensor>;
  #drawn: readonly Tensor[] = [];

  /** @throws ConfigError */
  constructor(config: LongformerConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("LongformerAttention", LongformerAttention.plan(config), parameters);
    this.config = config;
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: LongformerConfig): Plan {
    const who = "LongformerAttention";
    checkConfig(who, config, ["dim", "numHeads", "headDim", "left", "right", "dilation", "bias"]);
    const { dim, numHeads, headDim, left, right, dilation = 1, bias = false } = config;
    for (const [name, n] of Object.entries({ dim, numHeads, headDim })) expectInteger(who, name, n, 1);
    expectBoolean(who, "bias", bias);
    dilatedWindow(left, right, dilation);
    if (Array.isArray(dilation) && dilation.length !== numHeads)
      throw new ConfigError(who, `dilation has ${dilation.length} entries; there are ${numHeads} heads`);
    const inner = numHeads * headDim;
    return {
      ...Object.fromEntries([...LOCAL, ...GLOBAL].map((n) => [`${n}.weight`, matrix(inner, dim)])),
      "o_proj.weight": matrix(dim, inner),
      ...(bias
        ? {
            ...Object.fromEntries([...LOCAL, ...GLOBAL].map((n) => [`${n}.bias`, zeros(inner)])),
            "o_proj.bias": zeros(dim),
          }
        : {}),
    };
  }

  static init(gpu: Gpu, config: LongformerConfig, options: InitOptions): LongformerAttention {
    const plan = LongformerAttention.plan(config);
    const drawn = initParameters("LongformerAttention", gpu, plan, options);
    const made = new LongformerAttention(config, drawn);
    made.#drawn = Object.values(drawn);
    return made;
  }

  parameters(): Readonly<Record<string, Tensor>> {
    return this.#p;
  }

  /** @throws ShapeError, DTypeError, ConfigError */
  forward(x: Tensor, options: LongformerOptions = {}): Tensor {
    const who = "LongformerAttention";
    checkConfig(who, options, ["keyMask", "globalTokens"]);
    const { dim, numHeads, headDim, left, right, dilation = 1 } = this.config;
    const { keyMask } = options;
    const names = expectShape(who, "x", x, ["batch", "seq", dim]);
    const [batch, seq] = x.shape as [number, number, number];
    if (keyMask) {
      expectShape(who, "keyMask", keyMask, ["batch", "seq"], names);
      expectDType(who, "keyMask", keyMask, "i32");
    }
    const tokens = globalTokensOf(who, options.globalTokens, batch, seq);
    const split = (name: string, from: Tensor): Tensor =>
      splitHeads(from, numHeads, this.#p[`${name}.weight`]!, this.#p[`${name}.bias`]);
    return x.gpu.scope(() => {
      const tokensOnly = hideRows(who, x, keyMask);
      const [q, k, v] = LOCAL.map((name) => split(name, tokensOnly)) as [Tensor, Tensor, Tensor];
      const window = dilatedWindow(left, right, dilation);
      const near = attentionOutputs(q, k, v, { pattern: window, keyMask, layout: "bshd" });
      const slots = Math.max(0, ...tokens.map((list) => list.length));
      const inner = numHeads * headDim;
      let context = near.out;
      if (slots > 0) {
        const rows = globalRows(x.gpu, tokens, seq, slots);
        const take = (t: Tensor): Tensor =>
          gather(t.reshape([batch * seq, ...t.shape.slice(2)]), rows.index).reshape([
            batch,
            slots,
            ...t.shape.slice(2),
          ]);
        // Slots that a row does not use, and padding, are hidden.
        const alive = keyMask ? mul(rows.used, take(cast(keyMask, "f32"))) : rows.used;
        const slotMask = cast(alive, "i32");
        const sees = window.sees({ heads: numHeads, queries: seq });
        const far = attentionOutputs(q, take(k), take(v), {
          queryOffset: 0,
          keyMask: slotMask,
          mask: outsideWindow(x.gpu, tokens, slots, seq, numHeads, sees),
          layout: "bshd",
        });
        context = bshd(
          mergeAttention({ out: bhsd(near.out), lse: near.lse }, { out: bhsd(far.out), lse: far.lse }).out,
        );
        const [qG, kG, vG] = [
          split(GLOBAL[0]!, take(tokensOnly)),
          split(GLOBAL[1]!, tokensOnly),
          split(GLOBAL[2]!, tokensOnly),
        ];
        const all = attention(qG, kG, vG, { queryOffset: 0, keyMask, layout: "bshd" });
        const global = scatterAdd(
          mul(all.reshape([batch * slots, inner]), alive.reshape([batch * slots, 1])),
          rows.index,
          batch * seq,
        );
        const isGlobal = scatterAdd(alive.reshape([batch * slots, 1]), rows.index, batch * seq);
        context = replaceRows(context.reshape([batch * seq, inner]), global, isGlobal);
      }
      const kept = context.reshape([batch, seq, inner]);
      const live = keyMask ? mul(kept, cast(keyMask, "f32").reshape([batch, seq, 1])) : kept;
      return mergeHeads(
        live.reshape([batch, seq, numHeads, headDim]),
        this.#p["o_proj.weight"]!,
        this.#p["o_proj.bias"],
      );
    });
  }

  /** Free the parameters that `init` drew; given ones belong to the caller. */
  dispose(): void {
    for (const tensor of this.#drawn) tensor.dispose();
  }
}

const bhsd = (t: Tensor): Tensor => transpose(t, [0, 2, 1, 3]);
const bshd = bhsd;

function globalTokensOf(
  who: string,
  given: LongformerOptions["globalTokens"],
  batch: number,
  seq: number,
): number[][] {
  if (given === undefined) return Array.from({ length: batch }, () => []);
  if (given.length !== batch)
    throw new ConfigError(who, `globalTokens has ${given.length} lists; the batch is ${batch}`);
  return given.map((list) => {
    for (const at of list)
      if (!Number.isInteger(at) || at < 0 || at >= seq)
        throw new ConfigError(who, `a global token is at ${at}; the sequence has ${seq} tokens`);
    return [...new Set(list)].sort((a, b) => a - b);
  });
}

/** Rows of [batch * seq] in the slots of global tokens, and 1 where a slot is used. */
function globalRows(
  gpu: Gpu,
  tokens: readonly (readonly number[])[],
  seq: number,
  slots: number,
): { index: Tensor; used: Tensor } {
  const index = new Int32Array(tokens.length * slots);
  const used = new Float32Array(tokens.length * slots);
  tokens.forEach((list, b) => {
    for (let s = 0; s < slots; s++) {
      index[b * slots + s] = b * seq + (list[s] ?? 0);
      used[b * slots + s] = s < list.length ? 1 : 0;
    }
  });
  return {
    index: gpu.tensor(index, [index.length], "i32"),
    used: gpu.tensor(used, [tokens.length, slots]),
  };
}

/** 1 where a global token lies outside a row's window, [batch, heads or 1, seq, slots]: inside it counts once. */
function outsideWindow(
  gpu: Gpu,
  tokens: readonly (readonly number[])[],
  slots: number,
  seq: number,
  heads: number,
  sees: (head: number, i: number, j: number) => boolean,
): Tensor {
  const data = new Int32Array(tokens.length * heads * seq * slots);
  let at = 0;
  for (const list of tokens)
    for (let h = 0; h < heads; h++)
      for (let i = 0; i < seq; i++)
        for (let s = 0; s < slots; s++) data[at++] = s < list.length && !sees(h, i, list[s]!) ? 1 : 0;
  return gpu.tensor(data, [tokens.length, heads, seq, slots], "i32");
}
