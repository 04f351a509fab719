import type { FeedForwardParts } from "@x/ffn";
import type { ComponentClass, Schema, Tensor } from "@x/kernels";
import { configOf } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { countParameters, ParameterSet } from "../parameters.js";
import { denseMemory } from "./memory.js";

/** A feed-forward block of @x/ffn whose last step is a product. */
interface DenseBlock {
  forward(
    x: Tensor,
    options: { readonly residual?: Tensor | undefined; readonly normOptions: object },
  ): Tensor;
  coefficients(x: Tensor, options: { readonly normOptions: object }): Tensor;
  parameters(): Record<string, Tensor>;
  buffers(): Record<string, Tensor>;
}

/** A dense block of the package; `last` is the name of its last product. */
export function denseBlock<Given>(
  block: ComponentClass<DenseBlock, Given, FeedForwardParts> & { readonly schema: Schema },
  last: string,
): Factory<FeedForwardBlock> {
  return (spec, weights) => {
    const { model, name, innerNorm } = weights;
    const config = configOf(`${name}: ${spec.type}`, block.schema, spec, { dim: model.dim }) as Given;
    const plan = block.plan(config);
    const hidden = plan[`${last}.weight`]!.shape[1]!;
    const parameters = new ParameterSet(weights).planned(plan);
    const made = new block(config, parameters, { ffn_layernorm: innerNorm?.("ffn_layernorm", hidden) });
    return {
      forward: (x, context, residual) => made.forward(x, { residual, normOptions: context }),
      activeParameters: countParameters(made.parameters()),
      parameters: () => made.parameters(),
      buffers: () => made.buffers(),
      memory: denseMemory(parameters[`${last}.weight`]!, parameters[`${last}.bias`], (x, context) =>
        made.coefficients(x, { normOptions: context }),
      ),
    };
  };
}
