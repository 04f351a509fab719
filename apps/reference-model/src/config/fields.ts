import { checkConfig, ConfigError, type Schema } from "@x/kernels";

/** Most layers of a model: what is listed layer by layer has to end. */
export const MAX_LAYERS = 10_000;

type Json = Readonly<Record<string, unknown>>;

/** An object that was parsed from JSON. @throws ConfigError for anything else */
export function expectObject(who: string, value: unknown): Json {
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new ConfigError(who, "must hold an object");
  return value as Json;
}

/** Reads the fields of a configuration; null is absent. Errors name the file, the key, what it is and must be. */
export class Fields {
  readonly #who: string;
  readonly #json: Json;
  readonly #shown: Readonly<Record<string, string>> | undefined;

  /** With `known`, other keys are refused. `shown` are the file's names of its keys, where they are others. */
  constructor(who: string, json: Json, known?: readonly string[], shown?: Readonly<Record<string, string>>) {
    this.#who = who;
    this.#json = json;
    this.#shown = shown;
    if (known) checkConfig(who, json, known);
  }

  fail(key: string, message: string): never {
    throw new ConfigError(this.#who, `${this.#shown?.[key] ?? key} ${message}`);
  }

  /** Whether a key is not the file's. */
  isDefault(key: string): boolean {
    return this.#shown !== undefined && !Object.hasOwn(this.#shown, key);
  }

  get(key: string): unknown {
    return this.#json[key] ?? undefined;
  }

  integer(key: string, otherwise?: number, min = 1, max: number = 2 ** 31): number {
    const value = this.get(key) ?? otherwise;
    if (value === undefined) return this.fail(key, "is missing");
    if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max)
      return this.fail(
        key,
        `is ${JSON.stringify(value)}; it must be an integer of at least ${min}${max < 2 ** 31 ? ` and at most ${max}` : ""}`,
      );
    return value;
  }

  /** An integer, or undefined where the key is absent. */
  optionalInteger(key: string, min = 1): number | undefined {
    return this.get(key) === undefined ? undefined : this.integer(key, undefined, min);
  }

  number(key: string, otherwise?: number, min = 0): number {
    const value = this.get(key) ?? otherwise;
    if (value === undefined) return this.fail(key, "is missing");
    if (typeof value !== "number" || !Number.isFinite(value) || value < min)
      return this.fail(key, `is ${JSON.stringify(value)}; it must be a number of at least ${min}`);
    return value;
  }

  flag(key: string, otherwise: boolean): boolean {
    const value = this.get(key) ?? otherwise;
    return typeof value === "boolean"
      ? value
      : this.fail(key, `is ${JSON.stringify(value)}; it must be true or false`);
  }

  oneOf<T extends string>(key: string, values: readonly T[], otherwise?: T): T {
    const value = this.get(key) ?? otherwise;
    if (typeof value !== "string" || !(values as readonly string[]).includes(value))
      return this.fail(key, `is ${JSON.stringify(value)}; it must be one of ${values.join(", ")}`);
    return value as T;
  }

  text(key: string): string {
    const value = this.get(key);
    if (typeof value === "string") return value;
    return this.fail(
      key,
      value === undefined ? "is missing" : `is ${JSON.stringify(value)}; it must be a text`,
    );
  }

  /** A token id or a list of them. */
  ids(key: string): number[] {
    const value = this.get(key);
    const list: unknown[] = value === undefined ? [] : Array.isArray(value) ? value : [value];
    if (!list.every((x) => typeof x === "number" && Number.isInteger(x) && x >= 0))
      this.fail(key, `is ${JSON.stringify(value)}; it must be a token id or a list of them`);
    return list as number[];
  }
}

/**
 * The configuration of a package's component as a model's configuration says it, null meaning absent: the keys, ranges
 * and defaults are those that the package declares, but for keys that a model has not and for those, such as `dim`, that the model sets itself.
 */
export function configOf(
  caller: string,
  schema: Schema,
  spec: Readonly<Record<string, unknown>>,
  own: Readonly<Record<string, unknown>>,
  left: readonly string[] = [],
): Readonly<Record<string, unknown>> {
  const keys = schema.keys.filter((key) => key !== "dim" && !left.includes(key));
  const f = new Fields(caller, spec, ["type", ...keys]);
  const given = keys.flatMap((key) => (f.get(key) === undefined ? [] : [[key, f.get(key)] as const]));
  const config = { ...Object.fromEntries(given), ...own };
  schema.read(config, caller);
  return config;
}
