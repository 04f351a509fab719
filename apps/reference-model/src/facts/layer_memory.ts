import { add, ConfigError, type Tensor } from "@x/kernels";
import type { BlockMemory, FfnRunner } from "../components/index.js";
import type { CausalLM } from "../model/model.js";

/** The feed-forward block of one layer laid open: its keys can be read and its output changed. */
export class LayerMemory {
  readonly model: CausalLM;
  readonly layer: number;
  readonly memory: BlockMemory;

  /** @throws ConfigError if there is no such layer or its block is not a memory. */
  constructor(model: CausalLM, layer: number) {
    const who = "LayerMemory";
    const count = model.layers.length;
    if (!Number.isInteger(layer) || layer < 0 || layer >= count)
      throw new ConfigError(who, `layer is ${String(layer)}; it must be in 0..${String(count - 1)}`);
    const memory = model.layers[layer]!.ffn.memory;
    if (!memory)
      throw new ConfigError(
        who,
        `the feed-forward block of layer ${String(layer)}, ${model.config.layers[layer]!.ffn.type}, is no memory of keys and values`,
      );
    this.model = model;
    this.layer = layer;
    this.memory = memory;
  }

  /** Coefficients of all values for ids [batch, seq]: [batch, seq, F]. */
  keys(ids: Tensor): Tensor {
    const { gpu } = this.model;
    const own = this.model.layers[this.layer]!.ffn;
    let keys: Tensor | undefined;
    const runFfn: FfnRunner = (block, x, context, residual) => {
      if (block === own) keys = gpu.keep(gpu.scope(() => this.memory.keys(x, context)));
      return block.forward(x, context, residual);
    };
    gpu.scope(() => {
      this.model.hidden(ids, { runFfn });
    });
    return keys!;
  }

  /** The model's hidden states with a change [batch, seq, dim] added to the block's output. */
  hidden(ids: Tensor, change: Tensor): Tensor {
    const own = this.model.layers[this.layer]!.ffn;
    const runFfn: FfnRunner = (block, x, context, residual) => {
      const out = block.forward(x, context, residual);
      return block === own ? add(out, change) : out;
    };
    return this.model.hidden(ids, { runFfn });
  }
}
