import {
  add,
  boolean,
  broadcastTo,
  Component,
  concat,
  ConfigError,
  expectShape,
  expectTensor,
  integer,
  matrix,
  oneOf,
  ones,
  schema,
  slice,
  stopGradient,
  tensor,
  value,
  type Config,
  type Gpu,
  type ParameterPlan,
  type Parameters,
  type Stateful,
  type Tensor,
} from "@x/kernels";
import {
  BLOCK_FIELDS,
  blockContext,
  blockPlan,
  blocks,
  expectTokens,
  layersOf,
  layersPlan,
  type BlockContext,
} from "../block/block.js";
import type { Parts } from "../block/parts.js";
import { STATE_FIELDS } from "../cache/fields.js";
import { attention } from "../engine/attention.js";
import { RmtState, type AttendLayer, type RmtSteps } from "./rmt_state.js";

const RMT = schema("RecurrentMemoryTransformer", {
  ...BLOCK_FIELDS,
  layers: integer("Number of layers.", { min: 1 }),
  segmentLen: integer("Tokens of a segment.", { min: 1 }),
  memTokens: integer("Memory tokens.", { min: 1 }),
  mode: oneOf("Whether tokens see earlier tokens only, or all of their segment.", ["decoder", "encoder"], {
    default: "decoder",
  }),
  writeInit: oneOf(
    "Decoder: initial rows of the write slots, the memory that was read or the parameter `memory`.",
    ["memory", "learned"],
    { default: "memory" },
  ),
  memoryCausal: boolean("Decoder: one causal order over read slots, tokens and write slots.", {
    default: false,
  }),
  detachEvery: integer("Segments after which the gradient through the memory is cut; 0: never.", {
    min: 0,
    default: 0,
  }),
});
export type RmtConfig = Config<typeof RMT>;

const OUTPUT_FIELDS = {
  memory: tensor("[batch, memTokens, dim] before the first segment; default: the parameter `memory`.", {
    optional: true,
  }),
  residual: tensor("Added to the output.", { optional: true }),
};
const OUTPUTS = schema("RecurrentMemoryTransformer.outputs", OUTPUT_FIELDS);
export type RmtOutputOptions = Config<typeof OUTPUTS>;

const OPTIONS = schema("RecurrentMemoryTransformer.forward", {
  ...OUTPUT_FIELDS,
  state: value(
    "Memory and segment so far, which the call adds to; such a call has no gradient.",
    "an RmtState",
    (given: unknown): given is RmtState => given instanceof RmtState,
    { optional: true },
  ),
});
export type RmtOptions = Config<typeof OPTIONS>;

const STATE = schema("RecurrentMemoryTransformer.createState", {
  batch: STATE_FIELDS.batch,
  dtype: STATE_FIELDS.dtype,
});

/**
 * Recurrent memory transformer: memory tokens carry information from segment to segment. Decoder:
 * z = [read; tokens; write], read slots see each other, tokens see the read slots and earlier tokens, write slots see
 * everything; encoder: z = [memory; tokens], all see all. After the layers z = RMSNorm(z); the rows of the write (or
 * leading) slots are the next segment's memory, and gradients flow through them.
 *
 * x [batch, seq, dim], f32 or f16, seq of any length. Parameters memory [memTokens, dim], layers.<l>.*, norm; matrices and
 * memory initially normal, norms ones. Bulatov et al. 2022, arXiv:2207.06881, section 3.
 */
export class RecurrentMemoryTransformer extends Component<typeof RMT> implements Stateful<RmtState> {
  static readonly schema = RMT;
  readonly #block: BlockContext;
  readonly #layers: readonly Parameters[];
  readonly #steps: RmtSteps;

  /** @throws ConfigError, ShapeError, DTypeError */
  constructor(config: RmtConfig, parameters: Parameters, parts: Parts = {}) {
    super(RMT, config, RecurrentMemoryTransformer.plan(config), parameters);
    this.#block = blockContext(RMT.name, this.config, parts);
    this.#layers = layersOf(this.weights, "layers", this.config.layers);
    this.#steps = {
      initial: (batch) => this.initialMemory(batch),
      write: (memory) => this.#write(memory),
      run: (z, attend) => this.#run(z, attend),
    };
  }

  /** Names, shapes and initial values of the parameters. @throws ConfigError */
  static plan(config: RmtConfig): ParameterPlan {
    const read = RMT.read(config);
    const { dim, layers, memTokens, mode, memoryCausal, writeInit } = read;
    if (mode === "encoder" && (memoryCausal || writeInit === "learned"))
      throw new ConfigError(
        RMT.name,
        "memoryCausal and learned write slots belong to the decoder; mode is encoder",
      );
    return {
      memory: matrix(memTokens, dim),
      ...layersPlan("layers", layers, blockPlan(read)),
      "norm.weight": ones(dim),
    };
  }

  /** x [batch, seq, dim]; returns the same shape and dtype. @throws ConfigError, ShapeError, DTypeError */
  forward(x: Tensor, options: RmtOptions = {}): Tensor {
    const { name: who } = RMT;
    expectTensor(who, "x", x);
    const { state, memory, residual } = OPTIONS.read(options, who);
    if (!state) return x.gpu.scope(() => this.outputs(x, { memory, residual }).out);
    if (memory) throw new ConfigError(who, "memory is given; the state holds the memory");
    if (!state.isOf(this.#steps))
      throw new ConfigError(who, "the state is of another model; it must be one that createState made");
    const { seq } = expectShape(who, "x", x, ["batch", "seq", this.config.dim]) as { seq: number };
    expectTokens(who, seq);
    if (residual) expectShape(who, "residual", residual, x.shape);
    return x.gpu.scope(() => {
      const out = state.step(x);
      return residual ? add(residual, out) : out;
    });
  }

  /**
   * Runs the whole sequence x [batch, seq, dim], segment by segment: the tokens' rows [batch, seq, dim], and the memory
   * [batch, memTokens, dim] after the last segment.
   *
   * @throws ConfigError, ShapeError, DTypeError
   */
  outputs(x: Tensor, options: RmtOutputOptions = {}): { readonly out: Tensor; readonly memory: Tensor } {
    const { name: who } = RMT;
    const { memory: given, residual } = OUTPUTS.read(options, who);
    const { dim, segmentLen, memTokens, mode, detachEvery } = this.config;
    const { batch, seq } = expectShape(who, "x", x, ["batch", "seq", dim]) as { batch: number; seq: number };
    expectTokens(who, seq);
    if (given) expectShape(who, "memory", given, [batch, memTokens, dim]);
    if (residual) expectShape(who, "residual", residual, x.shape);
    return x.gpu.scope(() => {
      let memory = given ?? this.initialMemory(batch);
      const outs: Tensor[] = [];
      for (let start = 0, n = 1; start < seq; start += segmentLen, n++) {
        const tokens = slice(x, { axis: 1, start, end: Math.min(seq, start + segmentLen) });
        const step =
          mode === "decoder" ? this.#decoderSegment(tokens, memory) : this.#encoderSegment(tokens, memory);
        outs.push(step.out);
        memory = detachEvery > 0 && n % detachEvery === 0 ? stopGradient(step.memory) : step.memory;
      }
      const out = outs.length === 1 ? outs[0]! : concat(outs, 1);
      return { out: residual ? add(residual, out) : out, memory };
    });
  }

  /** The memory before the first segment, [batch, memTokens, dim]. @throws ConfigError */
  initialMemory(batch: number): Tensor {
    const { dim, memTokens } = this.config;
    return broadcastTo(this.weights["memory"]!, [batch, memTokens, dim]);
  }

  /** The initial rows of the write slots. */
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
    const { query, key } = this.#zones(tokens.gpu, batch, seq);
    const z = this.#run(concat([memory, tokens, this.#write(memory)], 1), (q, k, v) =>
      attention(q, k, v, { causal: true, layout: "bshd", positions: { query, key } }),
    );
    return {
      out: slice(z, { axis: 1, start: memTokens, end: memTokens + seq }),
      memory: slice(z, { axis: 1, start: memTokens + seq }),
    };
  }

  /**
   * The zones' mask as positions of causal attention: keys are counted, and the position of a query is that of the last
   * key that it sees: the last read slot for a read slot, the token itself for a token, the last key for a write slot.
   */
  #zones(gpu: Gpu, batch: number, seq: number): { query: Tensor; key: Tensor } {
    const { memTokens, memoryCausal } = this.config;
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

  #run(z: Tensor, attend: AttendLayer): Tensor {
    const h = blocks(z, this.#layers, this.#block, attend);
    return this.#block.norm(h, this.weights["norm.weight"]!);
  }

  /** An empty state for decoding, whose size does not depend on the text's length. @throws ConfigError unless mode is "decoder" */
  createState(options: Config<typeof STATE>): RmtState {
    const sizes = STATE.read(options);
    if (this.config.mode !== "decoder")
      throw new ConfigError(RMT.name, "mode is encoder; only a decoder goes token by token");
    return new RmtState(this.weights["memory"]!.gpu, this.config, sizes, this.#steps);
  }
}
