import { ConfigError } from "../base/errors.js";
import { Tensor } from "../tensor/tensor.js";
import { show } from "../base/show.js";
import { expectRecord, expectTensor } from "../base/validate.js";

/** A component with named parameters; the names are the checkpoint's, dotted ("q_proj.weight"). */
export interface Module {
  parameters(): Record<string, Tensor>;
}

/** Flatten children into one record: a tensor keeps its name, a module's parameters get it as a prefix. @throws ConfigError */
export function namedParameters(
  children: Readonly<Record<string, Module | Tensor | undefined>>,
): Record<string, Tensor> {
  expectRecord("namedParameters", "children", children);
  const flat: Record<string, Tensor> = {};
  for (const [name, child] of Object.entries(children)) {
    if (child === undefined) continue;
    if (Tensor.isInstance(child)) {
      flat[name] = child;
      continue;
    }
    if (typeof (child as Partial<Module> | null)?.parameters !== "function")
      throw new ConfigError(
        "namedParameters",
        `${name} is ${show(child)}; it must be a tensor or a component, which has parameters()`,
      );
    for (const [inner, tensor] of Object.entries(child.parameters())) flat[`${name}.${inner}`] = tensor;
  }
  return flat;
}

/** The parameters below a prefix, with the prefix taken off. @throws ConfigError */
export function subParameters(
  parameters: Readonly<Record<string, Tensor>>,
  prefix: string,
): Record<string, Tensor> {
  const who = "subParameters";
  expectRecord(who, "parameters", parameters);
  if (typeof prefix !== "string") throw new ConfigError(who, `prefix is ${show(prefix)}; it must be text`);
  const start = `${prefix}.`;
  const entries = Object.entries(parameters).filter(([name]) => name.startsWith(start));
  for (const [name, tensor] of entries) expectTensor(who, `parameter ${name}`, tensor);
  return Object.fromEntries(entries.map(([name, tensor]) => [name.slice(start.length), tensor]));
}

/** A parameter that must be there. @throws ConfigError naming what is missing and what was given. */
export function takeParameter(
  who: string,
  parameters: Readonly<Record<string, Tensor>>,
  name: string,
): Tensor {
  expectRecord(who, "parameters", parameters);
  const tensor = parameters[name];
  if (tensor === undefined)
    throw new ConfigError(
      who,
      `parameter ${name} is missing (given: ${Object.keys(parameters).join(", ") || "none"})`,
    );
  expectTensor(who, `parameter ${name}`, tensor);
  return tensor;
}
