import { gatedRetention, retention as retain, ssd } from "@x/attention";
import type { Runner, RunnerContext } from "./runner.js";

/** The configuration, whose keys are the packages', and a state if the case has one. */
const options = ({ config, inputs }: RunnerContext): Record<string, unknown> => ({
  ...config,
  state: inputs["state"],
});

export const retention: Readonly<Record<string, Runner>> = {
  retention: (context) => {
    const { q, k, v } = context.inputs;
    return retain(q!, k!, v!, options(context));
  },
  gated_retention: (context) => {
    const { q, k, v, logDecay } = context.inputs;
    return gatedRetention(q!, k!, v!, logDecay!, options(context));
  },
  ssd: (context) => {
    const { x, dt, b, c } = context.inputs;
    return ssd(x!, dt!, b!, c!, context.params as never, options(context));
  },
};
