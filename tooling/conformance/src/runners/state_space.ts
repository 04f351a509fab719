import { gatedLongConv, h3, lru, s4d, s5 } from "@x/attention";
import type { Runner } from "../runner.js";

export const stateSpace: Readonly<Record<string, Runner>> = {
  gated_long_conv: ({ inputs, params }) => ({
    out: gatedLongConv(inputs["v"]!, inputs["gates"]!, params as never).out,
  }),
  h3: ({ config, inputs, params }) => ({
    out: h3(inputs["u"]!, params as never, config).out,
  }),
  lru: ({ inputs, params }) => ({
    ...lru(inputs["u"]!, params as never, { state: inputs["state"] }),
  }),
  s4d: ({ config, inputs, params }) => ({
    ...s4d(inputs["u"]!, params as never, { ...config, state: inputs["state"] }),
  }),
  s5: ({ config, inputs, params }) => ({
    ...s5(inputs["u"]!, params as never, { ...config, state: inputs["state"] }),
  }),
};
