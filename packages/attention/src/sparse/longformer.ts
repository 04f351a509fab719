import {
  boolean,
  cast,
  Component,
  ConfigError,
  e,
  either,
  elementwise,
  expectDType,
  expectShape,
  gather,
  integer,
  listOf,
  matrix,
  mul,
  scatterAdd,
  schema,
  tensor,
  transpose,
  zeros,
  type Config,
  type Gpu,
  type ParameterPlan,
  type Parameters,
  type PlannedParameter,
  type Tensor,
} from "@x/kernels";
import { attention, attentionOutputs } from "../engine/attention.js";
import { mergeHeads, splitHeads } from "../block/heads.js";
import { hideRows } from "../block/hidden_rows.js";
import { mergeAttention } from "../engine/merge.js";
import { dilatedWindow } from "../patterns/pattern.js";

const LONGFORMER = schema("LongformerAttention", {
  dim: integer("Width of x and of the output.", { min: 1 }),
  numHeads: integer("Heads.", { min: 1 }),
  headDim: integer("Features of a head.", { min: 1 }),
  left: integer("Keys before the query; a published `attention_window` of 2w is left: w, right: w.", {
    min: 0,
  }),
  right: integer("Keys after the query.", { min: 0 }),
  dilation: either(
    integer("For all heads.", { min: 1 }),
    listOf(integer("For a head.", { min: 1 }), "For each head."),
    (given) => !Array.isArray(given),
    "Distance between neighbours in the window, one number or one per head.",
    { default: 1 },
  ),
  bias: boolean("Biases of all projections.", { default: false }),
});
export type LongformerConfig = Config<typeof LONGFORMER>;

const OPTIONS = schema("LongformerAttention.forward", {
  keyMask: tensor("i32 [batch, seq]: 1 is a token, 0 padding.", { optional: true }),
  globalTokens: listOf(
    listOf(integer("A position.", { min: 0 }), "Positions."),
    "Positions of the global tokens of each batch row; those of padding are ignored.",
    { optional: true },
  ),
});
export type LongformerOptions = Config<typeof OPTIONS>;

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
 * x [batch, seq, dim], f32. Parameters q_proj, k_proj, v_proj, q_global_proj, k_global_proj, v_global_proj [numHeads
 * headDim, dim], o_proj [dim, numHeads headDim] (`.weight`,
 * initially normal; with `bias` also `.bias`, initially zeros). Bidirectional, no cache.
 * Beltagy et al. 2020, arXiv:2004.05150, section 3.1.
 */
export class LongformerAttention extends Component<typeof LONGFORMER> {
  static readonly schema = LONGFORMER;

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: LongformerConfig, parameters: Parameters) {
    super(LONGFORMER, config, LongformerAttention.plan(config), parameters);
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: LongformerConfig): ParameterPlan {
    const { dim, numHeads, headDim, left, right, dilation, bias } = LONGFORMER.read(config);
    dilatedWindow(left, right, dilation);
    if (typeof dilation !== "number" && dilation.length !== numHeads)
      throw new ConfigError(
        LONGFORMER.name,
        `dilation has ${dilation.length} entries; there are ${numHeads} heads`,
      );
    const inner = numHeads * headDim;
    const projection = (
      name: string,
      out: number,
      into: number,
      role?: PlannedParameter["role"],
    ): ParameterPlan => ({
      [`${name}.weight`]: matrix(out, into, role),
      ...(bias ? { [`${name}.bias`]: zeros(out) } : {}),
    });
    return {
      ...Object.fromEntries(
        [...LOCAL, ...GLOBAL].flatMap((name) =>
          Object.entries(projection(name, inner, dim, name.startsWith("v") ? "value" : undefined)),
        ),
      ),
      ...projection("o_proj", dim, inner, "output"),
    };
  }

  /**
   * x [batch, seq, dim]; returns the same shape.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  forward(x: Tensor, options: LongformerOptions = {}): Tensor {
    const { name: who } = LONGFORMER;
    const { keyMask, globalTokens } = OPTIONS.read(options, who);
    const { dim, numHeads, headDim, left, right, dilation } = this.config;
    const p = this.weights;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    if (keyMask) {
      expectShape(who, "keyMask", keyMask, [batch, seq]);
      expectDType(who, "keyMask", keyMask, "i32");
    }
    const tokens = globalTokensOf(who, globalTokens, batch, seq);
    const split = (name: string, from: Tensor): Tensor =>
      splitHeads(from, numHeads, p[`${name}.weight`]!, p[`${name}.bias`]);
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
      return mergeHeads(live.reshape([batch, seq, numHeads, headDim]), p["o_proj.weight"]!, p["o_proj.bias"]);
    });
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
