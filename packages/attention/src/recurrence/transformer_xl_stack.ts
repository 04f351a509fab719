import {
  checkConfig,
  concat,
  expectInteger,
  expectShape,
  linear,
  relu,
  slice,
  stack,
  stopGradient,
  subParameters,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import { expectTokens, layersPlan } from "../block/block.js";
import {
  checkParameters,
  initParameters,
  matrix,
  ones,
  zeros,
  type InitOptions,
  type Plan,
} from "../parameters.js";
import { plainLayerNorm } from "../block/parts.js";
import { TransformerXlAttention } from "./transformer_xl.js";

export interface TransformerXlConfig {
  /** Even. */
  readonly dim: number;
  readonly numHeads: number;
  readonly headDim: number;
  readonly ffnDim: number;
  readonly layers: number;
  /** Tokens of a segment. */
  readonly segmentLen: number;
  /** Hidden states that each layer remembers. */
  readonly memLen: number;
  /** See `TransformerXlAttention`. */
  readonly clampLen?: number;
}

const ATTENTION = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "r_proj.weight", "o_proj.weight"];

/**
 * The stack of Transformer-XL: a segment after the other, each layer remembering the last memLen rows of its own
 * inputs, without gradient. Layer: y = LN1(a + attention(a, memory)), a' = LN2(y + relu(y W1^T + b1) W2^T + b2).
 *
 * x [batch, seq, dim]. Parameters u, v (shared by the layers), layers.<l>.attn.*, attn_norm, ffn.w1, ffn.w2, ffn_norm.
 * Dai et al. 2019, arXiv:1901.02860, section 3.
 */
export class TransformerXl implements Module {
  readonly config: TransformerXlConfig;
  readonly #p: Record<string, Tensor>;
  readonly #layers: readonly {
    readonly p: Record<string, Tensor>;
    readonly attention: TransformerXlAttention;
  }[];

  /** @throws ConfigError */
  constructor(config: TransformerXlConfig, parameters: Readonly<Record<string, Tensor>>) {
    this.#p = checkParameters("TransformerXl", TransformerXl.plan(config), parameters);
    this.config = config;
    const { dim, numHeads, headDim, clampLen = 0, layers } = config;
    const { u, v } = this.#p as { u: Tensor; v: Tensor };
    this.#layers = Array.from({ length: layers }, (_, l) => {
      const p = subParameters(this.#p, `layers.${l}`);
      const own = { ...subParameters(p, "attn"), u, v };
      return { p, attention: new TransformerXlAttention({ dim, numHeads, headDim, clampLen }, own) };
    });
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: TransformerXlConfig): Plan {
    const who = "TransformerXl";
    checkConfig(who, config, [
      "dim",
      "numHeads",
      "headDim",
      "ffnDim",
      "layers",
      "segmentLen",
      "memLen",
      "clampLen",
    ]);
    const { dim, numHeads, headDim, ffnDim, layers, segmentLen, memLen, clampLen = 0 } = config;
    for (const [name, n] of Object.entries({ ffnDim, layers, segmentLen })) expectInteger(who, name, n, 1);
    expectInteger(who, "memLen", memLen, 0);
    const attention = TransformerXlAttention.plan({ dim, numHeads, headDim, clampLen });
    return {
      u: attention["u"]!,
      v: attention["v"]!,
      ...layersPlan("layers", layers, {
        ...Object.fromEntries(ATTENTION.map((name) => [`attn.${name}`, attention[name]!])),
        "attn_norm.weight": ones(dim),
        "attn_norm.bias": zeros(dim),
        "ffn.w1.weight": matrix(ffnDim, dim),
        "ffn.w1.bias": zeros(ffnDim),
        "ffn.w2.weight": matrix(dim, ffnDim),
        "ffn.w2.bias": zeros(dim),
        "ffn_norm.weight": ones(dim),
        "ffn_norm.bias": zeros(dim),
      }),
    };
  }

  /** Normal matrices, zero biases, norms of ones. */
  static init(gpu: Gpu, config: TransformerXlConfig, options: InitOptions): TransformerXl {
    return new TransformerXl(
      config,
      initParameters("TransformerXl", gpu, TransformerXl.plan(config), options),
    );
  }

  /** Hidden states that are kept between calls, in numbers per layer and batch row: memLen * dim. */
  get memoryNumbers(): number {
    return this.config.memLen * this.config.dim;
  }

  /**
   * Run x, cut into segments, after the `memory` [layers, batch, M, dim] that an earlier call gave; gives the rows and
   * the memory after them, of at most memLen rows.
   */
  forward(x: Tensor, memory?: Tensor): { out: Tensor; memory: Tensor } {
    const who = "TransformerXl";
    const { dim, layers, segmentLen, memLen } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    expectTokens(who, seq);
    if (memory) expectShape(who, "memory", memory, [layers, batch, null, dim]);
    return x.gpu.scope(() => {
      let memories = this.#layers.map((_, l) =>
        memory
          ? slice(memory, { axis: 0, start: l, end: l + 1 }).reshape([batch, memory.shape[2]!, dim])
          : x.gpu.empty([batch, 0, dim]),
      );
      const outs: Tensor[] = [];
      for (let start = 0; start < seq; start += segmentLen) {
        let a = slice(x, { axis: 1, start, end: Math.min(seq, start + segmentLen) });
        memories = this.#layers.map((layer, l) => {
          const before = memories[l]!;
          const input = a;
          a = this.#layer(input, layer, before);
          return lastRows(before, stopGradient(input), memLen);
        });
        outs.push(a);
      }
      return { out: outs.length === 1 ? outs[0]! : concat(outs, 1), memory: stack(memories) };
    });
  }

  #layer(
    a: Tensor,
    { p, attention }: { p: Record<string, Tensor>; attention: TransformerXlAttention },
    memory: Tensor,
  ): Tensor {
    const norm = (z: Tensor, name: string): Tensor =>
      plainLayerNorm(z, p[`${name}.weight`]!, p[`${name}.bias`]!);
    return a.gpu.scope(() => {
      const y = norm(attention.forward(a, { memory, residual: a }), "attn_norm");
      const inner = relu(linear(y, p["ffn.w1.weight"]!, p["ffn.w1.bias"]));
      return norm(linear(inner, p["ffn.w2.weight"]!, p["ffn.w2.bias"], { residual: y }), "ffn_norm");
    });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }

  /** Free the layers' tables. */
  dispose(): void {
    for (const { attention } of this.#layers) attention.dispose();
  }
}

/** The last `count` rows of two pieces of a sequence. */
function lastRows(before: Tensor, after: Tensor, count: number): Tensor {
  const [old, fresh] = [before.shape[1]!, after.shape[1]!];
  if (fresh >= count) return slice(after, { axis: 1, start: fresh - count });
  const kept = Math.min(old, count - fresh);
  return kept === 0 ? after : concat([slice(before, { axis: 1, start: old - kept }), after], 1);
}
