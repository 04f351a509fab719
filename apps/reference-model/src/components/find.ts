import { ConfigError, subParameters } from "@x/kernels";
import type { ComponentSpec } from "../config/index.js";
import type { Weights } from "./contract.js";

/** The table's entry for a spec. @throws ConfigError naming the entries that there are */
export function find<F>(
  what: string,
  table: Readonly<Record<string, F>>,
  spec: ComponentSpec,
  where: string,
): F {
  const factory = Object.hasOwn(table, spec.type) ? table[spec.type] : undefined;
  if (!factory)
    throw new ConfigError(
      "CausalLM",
      `${where} has the ${what} ${JSON.stringify(spec.type)}; known: ${Object.keys(table).join(", ")} (--components adds others)`,
    );
  return factory;
}

/** The weights of a part of a part. */
export function below<W extends Pick<Weights, "name" | "given">>(weights: W, name: string): W {
  return {
    ...weights,
    name: `${weights.name}.${name}`,
    given: weights.given && subParameters(weights.given, name),
  };
}
