import type { Plan } from "@x/attention";
import type { Tensor } from "@x/kernels";
import type { Weights } from "../contract.js";
import { outStd, ParameterSet, STD } from "../parameters.js";

/** The parameters of a mechanism's plan; output projections shrink with depth, values and outputs by the gain. */
export function planned(plan: Plan, weights: Weights): Record<string, Tensor> {
  const set = new ParameterSet(weights);
  const { model, gain } = weights;
  for (const [name, { shape, init }] of Object.entries(plan)) {
    const out = /(^|\.)(o_proj|out_proj|down_proj|linear_out|output)\.weight$/.test(name);
    const value = /(^|\.)(v_proj|up_proj)\.weight$/.test(name);
    if (typeof init === "function") set.drawn(name, shape, init);
    else if (init === "normal")
      set.normal(name, shape, out ? outStd(model) * gain : value ? STD * gain : STD);
    else set.constant(name, shape, init);
  }
  return set.all();
}
