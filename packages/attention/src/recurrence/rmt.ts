import {
  broadcastTo,
  checkConfig,
  concat,
  ConfigError,
  expectBoolean,
  expectInteger,
  expectOneOf,
  expectShape,
  slice,
  stopGradient,
  subParameters,
  type Gpu,
  type Module,
  type Tensor,
} from "@x/kernels";
import {
  block,
  blockContext,
  blockPlan,
  checkBlockConfig,
  expectLayers,
  expectTokens,
  layersPlan,
  type BlockConfig,
  type BlockContext,
} from "../block/block.js";
import { attention } from "../engine/attention.js";
import { checkParameters, initParameters, matrix, ones, type InitOptions, type Plan } from "../parameters.js";
import type { Parts } from "../block/parts.js";
import { RmtState } from "./rmt_state.js";

export interface RmtConfig extends BlockConfig {
  readonly layers: number;
  readonly segmentLen: number;
  readonly memTokens: number;
  readonly mode: "decoder" | "encoder";
  /** Decoder: what the write slots start as; "memory" (default): the memory read; "learned": the parameter. */
  readonly writeInit?: "memory" | "learned";
  /** Decoder: one causal order over read slots, tokens and write slots. Default false. */
  readonly memoryCausal?: boolean;
  /** Cut the gradient through the memory after every k-th segment; 0 (default): never. */
  readonly detachEvery?: number;
}

export interface RmtOptions {
  /** [batch, memTokens, dim] to start from; default: the parameter `memory`. */
  readonly memory?: Tensor | undefined;
}

/**
 * Recurrent memory transformer: memory tokens carry information from segment to segment. Decoder:
 * z = [read; tokens; write], read slots see each other, tokens see the read slots and earlier tokens, write slots see
 * everything; encoder: z = [memory; tokens], all see all. After the layers z = RMSNorm(z); the rows of the write (or
 * leading) slots are the next segment's memory, and gradients flow through them.
 *
 * x [batch, seq, dim], seq of any length. Parameters memory [memTokens, dim], layers.<l>.*, norm.
 * Bulatov et al. 2022, arXiv:2207.06881, section 3.
 */
export class RecurrentMemoryTransformer implements Module {
  readonly config: RmtConfig;
  readonly #p: Record<string, Tensor>;
  readonly #block: BlockContext;
  readonly #layers: readonly Record<string, Tensor>[];

  /** @throws ConfigError */
  constructor(config: RmtConfig, parameters: Readonly<Record<string, Tensor>>, parts: Parts = {}) {
    this.#block = blockContext(config, parts);
    const who = "RecurrentMemoryTransformer";
    this.#p = checkParameters(who, RecurrentMemoryTransformer.plan(config), parameters);
    this.config = config;
    this.#layers = Array.from({ length: config.layers }, (_, l) => subParameters(this.#p, `layers.${l}`));
  }

  /** Names, shapes and beginnings of the parameters. @throws ConfigError */
  static plan(config: RmtConfig): Plan {
    const who = "RecurrentMemoryTransformer";
    checkBlockConfig(who, config, [
      "layers",
      "segmentLen",
      "memTokens",
      "mode",
      "writeInit",
      "memoryCausal",
      "detachEvery",
    ]);
    const { dim, layers, segmentLen, memTokens, mode, writeInit, detachEvery = 0 } = config;
    const { memoryCausal = false } = config;
    expectLayers(who, { layers, segmentLen, memTokens });
    expectOneOf(who, "mode", mode, ["decoder", "encoder"]);
    expectInteger(who, "detachEvery", detachEvery, 0);
    expectBoolean(who, "memoryCausal", memoryCausal);
    if (writeInit !== undefined) expectOneOf(who, "writeInit", writeInit, ["memory", "learned"]);
    if (mode === "encoder" && (memoryCausal || writeInit === "learned"))
      throw new ConfigError(
        who,
        "memoryCausal and learned write slots belong to the decoder; mode is encoder",
      );
    return {
      memory: matrix(memTokens, dim),
      ...layersPlan("layers", layers, blockPlan(config)),
      "norm.weight": ones(dim),
    };
  }

  /** Normal matrices and memory, norms of ones. */
  static init(
    gpu: Gpu,
    config: RmtConfig,
    options: InitOptions,
    parts: Parts = {},
  ): RecurrentMemoryTransformer {
    const plan = RecurrentMemoryTransformer.plan(config);
    return new RecurrentMemoryTransformer(
      config,
      initParameters("RecurrentMemoryTransformer", gpu, plan, options),
      parts,
    );
  }

  /** The whole sequence, segment by segment: the tokens' rows, and the memory after the last segment. */
  forward(x: Tensor, options: RmtOptions = {}): { out: Tensor; memory: Tensor } {
    const who = "RecurrentMemoryTransformer";
    checkConfig(who, options, ["memory"]);
    const { dim, segmentLen, memTokens, mode, detachEvery = 0 } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    expectTokens(who, seq);
    if (options.memory) expectShape(who, "memory", options.memory, [batch, memTokens, dim]);
    return x.gpu.scope(() => {
      let memory = options.memory ?? this.initialMemory(batch);
      const outs: Tensor[] = [];
      for (let start = 0, n = 1; start < seq; start += segmentLen, n++) {
        const tokens = slice(x, { axis: 1, start, end: Math.min(seq, start + segmentLen) });
        const step =
          mode === "decoder" ? this.#decoderSegment(tokens, memory) : this.#encoderSegment(tokens, memory);
        outs.push(step.out);
        memory = detachEvery > 0 && n % detachEvery === 0 ? stopGradient(step.memory) : step.memory;
      }
      return { out: outs.length === 1 ? outs[0]! : concat(outs, 1), memory };
    });
  }

  /** The memory before the first segment, [batch, memTokens, dim]. */
  initialMemory(batch: number): Tensor {
    const { dim, memTokens } = this.config;
    return broadcastTo(this.#p["memory"]!, [batch, memTokens, dim]);
  }

  /** What the write slots start as. */
  #write(memory: Tensor): Tensor {
    return this.config.writeInit === "learned" ? this.initialMemory(memory.shape[0]!) : memory;
  }

  #encoderSegment(tokens: Tensor, memory: Tensor): { out: Tensor; memory: Tensor } {
    const { memTokens } = this.config;
    const z = this.#run(concat([memory, tokens], 1), (q, k, v) => attention(q, k, v, { layout: "bshd" }));
    return {
      out: slice(z, { axis: 1, start: memTokens }),
      memory: slice(z, { axis: 1, end: memTokens }),
    };
  }

  #decoderSegment(tokens: Tensor, memory: Tensor): { out: Tensor; memory: Tensor } {
    const { memTokens } = this.config;
    const [batch, seq] = tokens.shape as [number, number];
    const { query, key } = this.zones(tokens.gpu, batch, seq);
    const z = this.#run(concat([memory, tokens, this.#write(memory)], 1), (q, k, v) =>
      attention(q, k, v, { causal: true, layout: "bshd", positions: { query, key } }),
    );
    return {
      out: slice(z, { axis: 1, start: memTokens, end: memTokens + seq }),
      memory: slice(z, { axis: 1, start: memTokens + seq }),
    };
  }

  /**
   * The zones' mask as positions of causal attention: keys are counted; a query stands at the last key that it sees,
   * so a read slot at the last read slot, a token at itself, a write slot at the very end.
   */
  zones(gpu: Gpu, batch: number, seq: number): { query: Tensor; key: Tensor } {
    const { memTokens, memoryCausal = false } = this.config;
    const total = 2 * memTokens + seq;
    const seen = (row: number): number => {
      if (memoryCausal) return row;
      if (row < memTokens) return memTokens - 1;
      return row < memTokens + seq ? row : total - 1;
    };
    const rows = (of: (row: number) => number): Tensor =>
      gpu.tensor(
        Int32Array.from({ length: batch * total }, (_, i) => of(i % total)),
        [batch, total],
        "i32",
      );
    return { query: rows(seen), key: rows((row) => row) };
  }

  #run(z: Tensor, attend: (q: Tensor, k: Tensor, v: Tensor, layer: number) => Tensor): Tensor {
    let h = z;
    this.#layers.forEach((p, l) => {
      h = block(h, p, this.#block, (q, k, v) => attend(q, k, v, l));
    });
    return this.#block.norm(h, this.#p["norm.weight"]!);
  }

  /** State for decoding token by token. @throws ConfigError unless mode is "decoder" */
  createState(gpu: Gpu, options: { readonly batch: number; readonly dtype?: "f32" | "f16" }): RmtState {
    if (this.config.mode !== "decoder")
      throw new ConfigError(
        "RecurrentMemoryTransformer",
        "mode is encoder; only a decoder goes token by token",
      );
    return new RmtState(gpu, this.config, options, {
      initial: (batch) => this.initialMemory(batch),
      write: (memory) => this.#write(memory),
      run: (z, attend) => this.#run(z, attend),
    });
  }

  parameters(): Record<string, Tensor> {
    return { ...this.#p };
  }
}
