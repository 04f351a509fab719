import type { ParameterPlan, Tensor } from "@x/kernels";
import type { Weights } from "../contract.js";
import { outStd, ParameterSet, STD } from "../parameters.js";

/** The parameters of a mechanism's plan; output projections shrink with depth, values and outputs by the gain. */
export function planned(plan: ParameterPlan, weights: Weights): Record<string, Tensor> {
  const set = new ParameterSet(weights);
  const { model, gain } = weights;
  for (const [name, { shape, init }] of Object.entries(plan)) {
    const out = /(^|\.)(o_proj|out_proj|down_proj|linear_out|output)\.weight$/.test(name);
    const value = /(^|\.)(v_proj|up_proj)\.weight$/.test(name);
    if (typeof init === "function") set.drawn(name, shape, init);
    else if (typeof init === "number") set.constant(name, shape, init);
    else set.normal(name, shape, out ? outStd(model) * gain : value ? STD * gain : STD);
  }
  return set.all();
}
