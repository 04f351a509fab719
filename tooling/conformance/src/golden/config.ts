import { ConfigError, type ConfigOf, type Fields, type Schema } from "@x/kernels";

type Config = Readonly<Record<string, unknown>>;

/** A number of a case's configuration. */
export function number(config: Config, key: string, otherwise?: number): number {
  const value = config[key] ?? otherwise;
  if (typeof value !== "number")
    throw new ConfigError("config", `${key} is ${JSON.stringify(value)}; it must be a number`);
  return value;
}

export function optionalNumber(config: Config, key: string): number | undefined {
  return config[key] === undefined || config[key] === null ? undefined : number(config, key);
}

export function flag(config: Config, key: string, otherwise: boolean): boolean {
  const value = config[key] ?? otherwise;
  if (typeof value !== "boolean")
    throw new ConfigError("config", `${key} is ${JSON.stringify(value)}; it must be true or false`);
  return value;
}

export function text(config: Config, key: string, otherwise?: string): string {
  const value = config[key] ?? otherwise;
  if (typeof value !== "string")
    throw new ConfigError("config", `${key} is ${JSON.stringify(value)}; it must be a string`);
  return value;
}

/** A configuration less some keys: those that say nothing for a form of the mechanism. */
export function without(config: Config, ...keys: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(config).filter(([key]) => !keys.includes(key)));
}

/** A configuration as one of a component, whose schema holds its keys and values. @throws ConfigError */
export function configFor<F extends Fields>(
  { schema }: { readonly schema: Schema<F> },
  given: Config,
): ConfigOf<F> {
  const config = given as ConfigOf<F>;
  schema.read(config);
  return config;
}
