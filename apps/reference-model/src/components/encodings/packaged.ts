import { prefixed, subParameters, type ComponentClass, type Schema, type Tensor } from "@x/kernels";
import { Fields, type ComponentSpec } from "../../config/index.js";
import type { AttentionEncoding, AttentionShape, Encoding, Factory } from "../contract.js";
import { ParameterSet } from "../parameters.js";

/**
 * The configuration of a packaged encoding: what the specification gives, null as absent, over what the model says.
 * `own` are keys that only the model says (its head size).
 *
 * @throws ConfigError for keys that the component does not have, and, once called, for values that break its rules
 */
export function settingsOf<Given>(
  { schema }: Pick<EncodingClass<unknown, Given>, "schema" | "plan">,
  spec: ComponentSpec,
  name: string,
  own: readonly string[] = [],
): (fromModel: Readonly<Record<string, unknown>>) => Given {
  const who = `${name}: position`;
  new Fields(who, spec, ["type", ...schema.keys.filter((key) => !own.includes(key))]);
  const given = Object.entries(spec).filter(([key, value]) => key !== "type" && value !== null);
  return (fromModel) => {
    const known = Object.entries(fromModel).filter(([key]) => schema.keys.includes(key));
    const config = Object.fromEntries([...known, ...given]);
    schema.read(config, who);
    return config as Given;
  };
}

type EncodingClass<C, Given> = ComponentClass<C, Given, unknown> & { readonly schema: Schema };
/** What an encoding does in a layer. */
type InLayer = Omit<AttentionEncoding, "parameters">;

/**
 * An encoding of which each layer has a component with parameters; they lie under the layer's, below `place` where the
 * checkpoints have such a name.
 */
export function perLayer<C extends { dispose(): void }, Given>(
  of: EncodingClass<C, Given>,
  use: (own: C, shape: AttentionShape) => InLayer,
  place?: string,
): Factory<Encoding> {
  return (spec, { name, model }) => {
    const settings = settingsOf(of, spec, name, ["numHeads", "headDim"]);
    const made: C[] = [];
    return {
      attention: (weights, shape) => {
        const config = settings({ ...shape, modelDim: model.dim });
        const plan = of.plan(config);
        const parameters = new ParameterSet(weights).planned(place ? prefixed(place, plan) : plan);
        const own = new of(config, place ? subParameters(parameters, place) : parameters);
        made.push(own);
        return { ...use(own, shape), parameters: (): Record<string, Tensor> => ({ ...parameters }) };
      },
      parameters: () => ({}),
      dispose: () => {
        for (const own of made) own.dispose();
      },
    };
  };
}
