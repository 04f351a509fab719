import { add, ConfigError, type Tensor } from "@x/kernels";
import { COMPONENTS, type BlockMemory, type Components, type ForwardContext } from "./components/index.js";
import { CausalLM } from "./model.js";

/**
 * A model with the feed-forward block of one layer laid open: its keys can be read and its output changed. It shares
 * the model's tensors.
 */
export class LayerMemory {
  readonly model: CausalLM;
  readonly layer: number;
  readonly memory: BlockMemory;
  #change: Tensor | undefined;
  #see: ((x: Tensor, context: ForwardContext) => void) | undefined;

  /** @throws ConfigError if there is no such layer or its block is no memory. */
  constructor(model: CausalLM, layer: number, components: Components = COMPONENTS) {
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
    const ffns = Object.entries(components.ffns).map(([type, factory]): [string, typeof factory] => [
      type,
      (spec, weights) => {
        const block = factory(spec, weights);
        if (weights.layer !== layer) return block;
        return {
          activeParameters: block.activeParameters,
          parameters: () => block.parameters(),
          buffers: () => block.buffers?.() ?? {},
          forward: (x, context, residual) => {
            this.#see?.(x, context);
            const out = block.forward(x, context, residual);
            return this.#change ? add(out, this.#change) : out;
          },
        };
      },
    ]);
    this.layer = layer;
    this.memory = memory;
    this.model = CausalLM.fromParameters(model.gpu, model.config, model.state(), {
      ...components,
      ffns: Object.fromEntries(ffns),
    });
  }

  /** Coefficients of all values for ids [batch, seq]: [batch, seq, F]. */
  keys(ids: Tensor): Tensor {
    const { gpu } = this.model;
    let keys: Tensor | undefined;
    this.#see = (x, context) => {
      keys = gpu.keep(gpu.scope(() => this.memory.keys(x, context)));
    };
    try {
      gpu.scope(() => {
        this.model.hidden(ids);
      });
    } finally {
      this.#see = undefined;
    }
    return keys!;
  }

  /** Run `fn` with a change [batch, seq, dim] added to the block's output. */
  changed<T>(change: Tensor, fn: () => T): T {
    this.#change = change;
    try {
      return fn();
    } finally {
      this.#change = undefined;
    }
  }
}
