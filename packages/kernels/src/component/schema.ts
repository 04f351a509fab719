import { ConfigError } from "../base/errors.js";
import { show } from "../base/show.js";
import {
  checkConfig,
  expectBoolean,
  expectInteger,
  expectNumber,
  expectOneOf,
  expectTensor,
} from "../base/validate.js";
import type { Tensor } from "../tensor/tensor.js";

/** Whether a key must be given, may be left out, or has a default. */
export type Presence = "required" | "optional" | "default";

/** Throws a ConfigError that names the caller, the key, the value and the rule. */
export type Check = (caller: string, key: string, value: unknown) => void;

/** One key of a schema: what it means, which values it takes, and what holds where it is left out. */
export interface Field<T, P extends Presence = Presence> {
  /** One sentence for READMEs and for the command line's help. */
  readonly doc: string;
  /** The rule in words, such as "integer >= 1". */
  readonly rule: string;
  readonly presence: P;
  /** The value of a key that is left out. */
  readonly default?: T;
  /** The default in words where it depends on other keys, such as "dim / numHeads". */
  readonly defaultDoc?: string;
  readonly check: Check;
}

/** What every field may be told besides its range. */
export interface FieldSettings<T> {
  readonly default?: T;
  /** The key may be left out; a component decides what that means. */
  readonly optional?: true;
  /** The meaning of a key that is left out, in words; makes the key optional. */
  readonly defaultDoc?: string;
}

type PresenceOf<S> = S extends { readonly default: unknown }
  ? "default"
  : S extends { readonly optional: true } | { readonly defaultDoc: string }
    ? "optional"
    : "required";

/** The range of a number, bounds included. */
export interface Range {
  readonly min?: number;
  readonly max?: number;
}

function field<T, S extends FieldSettings<T>>(
  doc: string,
  rule: string,
  settings: S | undefined,
  check: Check,
): Field<T, PresenceOf<S>> {
  const { default: value, optional, defaultDoc } = settings ?? {};
  const presence =
    value !== undefined ? "default" : optional || defaultDoc !== undefined ? "optional" : "required";
  return {
    doc,
    rule,
    presence: presence as PresenceOf<S>,
    check,
    ...(value === undefined ? {} : { default: value }),
    ...(defaultDoc === undefined ? {} : { defaultDoc }),
  };
}

function rangeRule(kind: string, { min = -Infinity, max = Infinity }: Range): string {
  const least = min === Number.MIN_VALUE ? "> 0" : min === -Infinity ? "" : `>= ${min}`;
  const most = max === Infinity ? "" : `<= ${max}`;
  return [kind, least, most].filter((part) => part !== "").join(" ");
}

/** An integer. */
export function integer<const S extends FieldSettings<number> & Range = object>(
  doc: string,
  settings?: S,
): Field<number, PresenceOf<S>> {
  const { min, max }: Range = settings ?? {};
  return field<number, S>(doc, rangeRule("integer", settings ?? {}), settings, (caller, key, value) => {
    expectInteger(caller, key, value, min, max);
  });
}

/** A finite number; `min: Number.MIN_VALUE` means "above 0". */
export function number<const S extends FieldSettings<number> & Range = object>(
  doc: string,
  settings?: S,
): Field<number, PresenceOf<S>> {
  const { min, max }: Range = settings ?? {};
  return field<number, S>(doc, rangeRule("number", settings ?? {}), settings, (caller, key, value) => {
    expectNumber(caller, key, value, min, max);
  });
}

/** True or false. */
export function boolean<const S extends FieldSettings<boolean> = object>(
  doc: string,
  settings?: S,
): Field<boolean, PresenceOf<S>> {
  return field<boolean, S>(doc, "true or false", settings, expectBoolean);
}

/** Text. */
export function text<const S extends FieldSettings<string> = object>(
  doc: string,
  settings?: S,
): Field<string, PresenceOf<S>> {
  return field<string, S>(doc, "text", settings, (caller, key, value) => {
    if (typeof value !== "string")
      throw new ConfigError(caller, `${key} is ${JSON.stringify(value)}; it must be text`);
  });
}

/** One of the listed strings. */
export function oneOf<const T extends string, const S extends FieldSettings<T> = object>(
  doc: string,
  values: readonly T[],
  settings?: S,
): Field<T, PresenceOf<S>> {
  const rule = values.map((value) => `"${value}"`).join(", ");
  return field<T, S>(doc, rule, settings, (caller, key, value) => {
    expectOneOf(caller, key, value, values);
  });
}

/** A tensor; its shape and dtype are the operation's to check. */
export function tensor<const S extends FieldSettings<Tensor> = object>(
  doc: string,
  settings?: S,
): Field<Tensor, PresenceOf<S>> {
  return field<Tensor, S>(doc, "tensor", settings, expectTensor);
}

/** An array whose items follow a rule. */
export function listOf<
  T,
  const S extends FieldSettings<readonly T[]> & { readonly minLength?: number } = object,
>(item: Field<T>, doc: string, settings?: S): Field<readonly T[], PresenceOf<S>> {
  const { minLength = 0 }: { readonly minLength?: number } = settings ?? {};
  const rule = `list of ${item.rule}`;
  return field<readonly T[], S>(doc, rule, settings, (caller, key, value) => {
    if (!Array.isArray(value) || value.length < minLength)
      throw new ConfigError(
        caller,
        `${key} is ${JSON.stringify(value)}; it must be a list of ${minLength > 0 ? `${minLength} or more, each ` : ""}${item.rule}`,
      );
    (value as unknown[]).forEach((one, i) => {
      item.check(caller, `${key}[${i}]`, one);
    });
  });
}

/** A value that follows either of two rules; `pick` tells by the value which one is meant. */
export function either<A, B, const S extends FieldSettings<A | B> = object>(
  first: Field<A>,
  second: Field<B>,
  isFirst: (value: unknown) => boolean,
  doc: string,
  settings?: S,
): Field<A | B, PresenceOf<S>> {
  return field<A | B, S>(doc, `${first.rule}, or ${second.rule}`, settings, (caller, key, value) => {
    (isFirst(value) ? first : second).check(caller, key, value);
  });
}

/** A nested object with a schema of its own. */
export function nested<F extends Fields, const S extends FieldSettings<ConfigOf<F>> = object>(
  inner: Schema<F>,
  doc: string,
  settings?: S,
): Field<ConfigOf<F>, PresenceOf<S>> {
  return field<ConfigOf<F>, S>(doc, `object: ${inner.keys.join(", ")}`, settings, (caller, key, value) => {
    inner.read(value as ConfigOf<F>, `${caller}: ${key}`);
  });
}

/** A value that only code can give (a function, an instance): `rule` says what it must be, `holds` tells. */
export function value<T, const S extends FieldSettings<T> = object>(
  doc: string,
  rule: string,
  holds: (given: unknown) => given is T,
  settings?: S,
): Field<T, PresenceOf<S>> {
  return field<T, S>(doc, rule, settings, (caller, key, given) => {
    if (!holds(given)) throw new ConfigError(caller, `${key} is ${show(given)}; it must be ${rule}`);
  });
}

/** Fields by key. */
export type Fields = Readonly<Record<string, Field<unknown>>>;

type ValueOf<F> = F extends Field<infer T> ? T : never;
type Simplify<T> = { [K in keyof T]: T[K] };

/** What a caller may give: keys with a default and optional keys may be left out. */
export type ConfigOf<F extends Fields> = Simplify<
  {
    readonly [K in keyof F as F[K]["presence"] extends "required" ? K : never]: ValueOf<F[K]>;
  } & {
    readonly [K in keyof F as F[K]["presence"] extends "required" ? never : K]?: ValueOf<F[K]> | undefined;
  }
>;

/** What `read` returns: defaults are filled in. */
export type ResolvedOf<F extends Fields> = {
  readonly [K in keyof F]: F[K]["presence"] extends "optional" ? ValueOf<F[K]> | undefined : ValueOf<F[K]>;
};

/** The type of a schema's configurations: `type RMSNormConfig = Config<typeof RMSNORM>`. */
export type Config<S> = S extends Schema<infer F> ? ConfigOf<F> : never;
/** The type of a schema's configurations with every default filled in. */
export type Resolved<S> = S extends Schema<infer F> ? ResolvedOf<F> : never;

/** A key of a schema for tables and command lines. */
export interface SchemaRow {
  readonly key: string;
  readonly rule: string;
  /** JSON of the default, its description, "required", or "" where the key may be left out. */
  readonly default: string;
  readonly doc: string;
}

/** A configuration's keys, declared once: types, defaults, ranges and documentation come from here. */
export interface Schema<F extends Fields = Fields> {
  /** The name in errors: that of the component or operation. */
  readonly name: string;
  readonly fields: F;
  readonly keys: readonly string[];
  /**
   * Checks every key and fills in the defaults. A key that is undefined counts as left out.
   *
   * @param caller name in errors; default: the schema's
   * @throws ConfigError for an object that is missing, an unknown key (with the nearest known one), a required key
   * that is missing, and a value that breaks its rule
   */
  read(config: ConfigOf<F>, caller?: string): ResolvedOf<F>;
  /** Every key with its rule, default and documentation. */
  rows(): SchemaRow[];
}

/**
 * Declares the keys of a configuration or of a call's options.
 *
 * ```ts
 * const RMSNORM = schema("RMSNorm", {
 *   dim: integer("Width of x.", { min: 1 }),
 *   eps: number("Added to the mean square.", { min: 0, default: 1e-6 }),
 * });
 * type RMSNormConfig = Config<typeof RMSNORM>; // { readonly dim: number; readonly eps?: number | undefined }
 * const { dim, eps } = RMSNORM.read(config); // both are numbers
 * ```
 */
export function schema<F extends Fields>(name: string, fields: F): Schema<F> {
  const keys = Object.keys(fields);
  const entries = Object.entries(fields);
  return {
    name,
    fields,
    keys,
    read(config, caller = name) {
      checkConfig(caller, config, keys);
      const given = config as Readonly<Record<string, unknown>>;
      const resolved: Record<string, unknown> = {};
      for (const [key, one] of entries) {
        const own = Object.hasOwn(given, key) ? given[key] : undefined;
        if (own !== undefined) {
          one.check(caller, key, own);
          resolved[key] = own;
        } else if (one.presence === "required") {
          throw new ConfigError(caller, `${key} is missing; it must be ${one.rule}`);
        } else resolved[key] = one.default;
      }
      return resolved as ResolvedOf<F>;
    },
    rows: () =>
      entries.map(([key, { rule, presence, default: value, defaultDoc, doc }]) => ({
        key,
        rule,
        default:
          defaultDoc ??
          (presence === "default" ? JSON.stringify(value) : presence === "required" ? "required" : ""),
        doc,
      })),
  };
}
