import type { ParameterPlan, Schema } from "@x/kernels";
import { Fields, type ComponentSpec } from "../../config/index.js";

/** What a component of a package says about its keys. */
interface Declared<Given> {
  readonly schema: Schema;
  plan(config: Given): ParameterPlan;
}

/**
 * The configuration of a packaged encoding: what the specification gives, null as absent, over what the model says.
 * `own` are keys that only the model says (its head size).
 *
 * @throws ConfigError for keys that the component does not have, and, once called, for values that break its rules
 */
export function settingsOf<Given>(
  { schema }: Declared<Given>,
  spec: ComponentSpec,
  name: string,
  own: readonly string[] = [],
): (fromModel: Readonly<Record<string, unknown>>) => Given {
  const who = `${name}: position`;
  new Fields(who, spec, ["type", ...schema.keys.filter((key) => !own.includes(key))]);
  const given = Object.entries(spec).filter(([key, value]) => key !== "type" && value !== null);
  return (fromModel) => {
    const config = { ...fromModel, ...Object.fromEntries(given) };
    schema.read(config, who);
    return config as Given;
  };
}
