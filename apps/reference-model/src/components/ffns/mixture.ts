import { add, type ComponentClass, type Schema, type Tensor } from "@x/kernels";
import { configOf, Fields } from "../../config/index.js";
import type { BlockMemory, Factory, FeedForwardBlock, ForwardContext, Part, Weights } from "../contract.js";
import { ParameterSet } from "../parameters.js";

type Values = Readonly<Record<string, Tensor>>;

/** A layer of @x/moe. */
interface MoeLayer {
  outputs(x: Tensor, options: object): { readonly out: Tensor };
  parameters(): Record<string, Tensor>;
  buffers(): Record<string, Tensor>;
}

type ResultOf<Layer extends MoeLayer> = ReturnType<Layer["outputs"]>;

/** What a layer's training needs besides the forward pass. */
export interface Training<Result> extends Pick<Part, "afterStep" | "dispose"> {
  /** Options of a forward pass; default: whether it trains. */
  options?(x: Tensor, context: ForwardContext): object;
  /** Called with what each forward pass in training gave. */
  after?(result: Result): void;
}

/** What the reference model adds to a layer of the package. */
export interface MixtureSettings<Layer extends MoeLayer, Result = ResultOf<Layer>> {
  /** The observer's name of what was chosen, and the tensors that the observer gets besides x. */
  readonly observed: readonly [name: string, values: (result: Result) => Values];
  /** How many experts a token visits, and how many there are. */
  readonly visited: (layer: Layer) => readonly [number, number];
  /** Keys of the specification that the package does not have. */
  readonly keys?: readonly string[];
  /** Keys of the package that a specification may not have. */
  readonly without?: readonly string[];
  /** Keys of the package that the model sets itself, from its specification and its factor of balancing losses. */
  readonly own?: (f: Fields, balanceLoss: number) => Readonly<Record<string, unknown>>;
  /** The balancing loss of a pass, if there is one. */
  readonly loss?: (result: Result, layer: Layer, f: Fields, balanceLoss: number) => Tensor | undefined;
  readonly memory?: (layer: Layer) => BlockMemory | undefined;
  readonly training?: (layer: Layer, f: Fields, weights: Weights) => Training<Result>;
}

/** Parameters of which a token uses those of its experts alone. */
const OF_EXPERTS = /^(experts\.|weight_(down|up)_embed\.)/;

function activeParameters(parameters: Values, [visited, experts]: readonly [number, number]): number {
  const active = ([name, { size }]: readonly [string, Tensor]): number =>
    OF_EXPERTS.test(name) ? (size * visited) / experts : size;
  return Object.entries(parameters).reduce((n, entry) => n + active(entry), 0);
}

/** A mixture of experts of the package. */
export function mixture<Layer extends MoeLayer, Given>(
  of: ComponentClass<Layer, Given, unknown> & { readonly schema: Schema },
  settings: MixtureSettings<Layer>,
): Factory<FeedForwardBlock> {
  const { keys = [], without = [], own = () => ({}), visited, loss } = settings;
  const [observed, values] = settings.observed;
  return (spec, weights) => {
    const { model, name } = weights;
    const who = `${name}: ${spec.type}`;
    const f = new Fields(who, spec);
    const rest = Object.fromEntries(Object.entries(spec).filter(([key]) => !keys.includes(key)));
    const fixed = { dim: model.dim, ...own(f, model.balanceLoss) };
    const config = configOf(who, of.schema, rest, fixed, without) as Given;
    const layer = new of(config, new ParameterSet(weights).planned(of.plan(config)));
    const training = settings.training?.(layer, f, weights) ?? {};
    const memory = settings.memory?.(layer);
    return {
      forward: (x, context, residual) => {
        const result = layer.outputs(x, training.options?.(x, context) ?? {}) as ResultOf<Layer>;
        context.observe?.(`${name}.${observed}`, { x, ...values(result) });
        if (context.training) training.after?.(result);
        const balancing = context.losses && loss?.(result, layer, f, model.balanceLoss);
        if (balancing) context.losses.push(balancing);
        return residual ? add(residual, result.out) : result.out;
      },
      activeParameters: activeParameters(layer.parameters(), visited(layer)),
      parameters: () => layer.parameters(),
      buffers: () => layer.buffers(),
      afterStep: () => training.afterStep?.(),
      dispose: () => training.dispose?.(),
      ...(memory ? { memory } : {}),
    };
  };
}
