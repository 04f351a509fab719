import { KanFeedForward, type KanFeedForwardConfig } from "@x/ffn";
import { add } from "@x/kernels";
import { Fields } from "../../config/index.js";
import type { Factory, FeedForwardBlock } from "../contract.js";
import { countParameters, streamOf } from "../parameters.js";

/** Options of each basis, as `KanFeedForward` has them. */
const OPTIONS = {
  bspline: ["gridSize", "splineOrder", "gridRange", "baseActivation", "scaler"],
  chebyshev: ["degree", "squash"],
  fourier: ["gridSize", "bias"],
  wavelet: ["wavelet", "omega0", "baseActivation"],
} as const;

/**
 * Two KAN layers: `basis` ("bspline"), `hiddenDim` (dim), and the options of the basis. Batch norm is left out: it
 * would let a token see later ones.
 */
export const kanBlock: Factory<FeedForwardBlock> = (spec, weights) => {
  const { gpu, model, name, given, made, seed } = weights;
  const known = Object.values(OPTIONS).flat();
  const f = new Fields(`${name}: kan`, spec, ["type", "basis", "hiddenDim", ...known]);
  const basis = f.oneOf("basis", Object.keys(OPTIONS) as (keyof typeof OPTIONS)[], "bspline");
  const options: readonly string[] = OPTIONS[basis];
  for (const key of known)
    if (f.get(key) !== undefined && !options.includes(key))
      f.fail(key, `is given; the basis ${basis} takes ${options.join(", ")}`);
  const config = {
    basis,
    dim: model.dim,
    hiddenDim: f.integer("hiddenDim", model.dim),
    ...Object.fromEntries(options.flatMap((key) => (f.get(key) === undefined ? [] : [[key, f.get(key)]]))),
  } as unknown as KanFeedForwardConfig;
  const block = given
    ? KanFeedForward.fromParameters(gpu, config, given)
    : KanFeedForward.init(gpu, config, { seed, stream: streamOf(name) });
  const parameters = block.parameters();
  if (!given) made.push(...Object.values(parameters));
  return {
    forward: (x, _context, residual) => {
      const out = block.forward(x);
      return residual ? add(residual, out) : out;
    },
    activeParameters: countParameters(parameters),
    parameters: () => block.parameters(),
    buffers: () => block.buffers(),
  };
};
